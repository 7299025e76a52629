"""`eokit datasets`: which published data sets eokit reads, where they come from, and whether a copy is whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eokit.data.formats import FORMATS, find_tree, get_format
from eokit.errors import DataError
from eokit_cli.options import PATH, NameOf, common, emit

if TYPE_CHECKING:
    from eokit.data.formats.base import FormatInfo

NAME = click.argument("name", metavar="NAME", type=NameOf([*FORMATS]))


@click.group()
def command() -> None:
    """List the known data sets, what they hold and where they come from; check a copy of one."""


@command.command("list")
@common
def list_(as_json: bool, quiet: bool) -> None:
    """List the data sets that `eokit prepare` reads."""
    infos = [get_format(name).INFO for name in FORMATS]
    emit([asdict(info) for info in infos], as_json, quiet, lambda: "\n".join(_row(info) for info in infos))


@command.command()
@NAME
@common
def info(name: str, as_json: bool, quiet: bool) -> None:
    """Say what NAME holds, where to get it, its licence and how to cite it."""
    known = get_format(name).INFO
    emit(asdict(known), as_json, quiet, lambda: _page(known))


@command.command()
@NAME
@click.argument("source", required=False, type=PATH)
@common
def check(name: str, source: Path | None, as_json: bool, quiet: bool) -> None:
    """Check a copy of NAME at SOURCE without reading pixels: one line for each missing or wrong thing.

    Exit code 3 if `eokit prepare` would refuse the copy; notes are things it goes without.
    """
    published = get_format(name)
    tree = source or find_tree(published)
    findings = published.check(tree)
    result = {"source": str(tree), "problems": findings.lines, "notes": findings.notes}
    verdict = f"{tree}: {'not usable as it is' if findings.lines else 'every file that is needed is there and fits'}"
    emit(result, as_json, quiet, lambda: "\n".join((*(f"note: {note}" for note in findings.notes), verdict)))
    if findings.lines:
        raise DataError(*findings.lines)


def _row(info: FormatInfo) -> str:
    return f"{info.name:<10} {info.title}: {info.summary} ({', '.join(info.sensors)}; {info.licence})"


def _page(info: FormatInfo) -> str:
    crops = "; ".join(f"{number} {name}" for number, name in enumerate(info.classes)) or "none"
    rows = {
        "what": info.summary,
        "sensors": ", ".join(info.sensors),
        "classes": crops,
        "folds": info.folds,
        "folder": info.tree,
        "licence": info.licence,
        "cite": info.citation,
        "prepare": f"eokit prepare {info.name} FOLDER",
    }
    downloads = [f"  {'get it':<8} {one.title}, {one.size}: {one.url}" for one in info.downloads]
    return "\n".join([info.title, *(f"  {key:<8} {text}" for key, text in rows.items()), *downloads])
