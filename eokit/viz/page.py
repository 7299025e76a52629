"""One HTML file with its pictures inside, so that it can be mailed and opened anywhere, offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eokit.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
img { max-width: 100%; border: 1px solid #ddd; }
pre { background: #f6f6f4; padding: 0.8rem; overflow-x: auto; font-size: 13px; line-height: 1.35; }
.warning { background: #fdecea; border-left: 4px solid #b2182b; padding: 0.6rem 1rem; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG file. alt: what is to be seen, in words, for readers who do not see it."""

    path: Path
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs under it, a preformatted block (tables, commands), and pictures."""

    heading: str
    paragraphs: Sequence[str] = ()
    block: str = ""
    pictures: Sequence[Picture] = ()


def write_page(path: Path, title: str, warning: str, sections: Sequence[Section]) -> Path:
    """Write the page to `path`; `warning` stands in a red box on top unless it is empty."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if warning:
        parts.append(f'<p class="warning">{html.escape(warning)}</p>')
    for section in sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        if section.block:
            parts.append(f"<pre>{html.escape(section.block)}</pre>")
        parts += [_image(picture) for picture in section.pictures]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return write_text(path, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return f'<p><img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{data}"></p>'
