"""eokit.json in a tree: what the data are called if they are not the published ones, and choices of their reader.

    {"title": "...", "licence": "...", "citation": "...", "synthetic": true, "options": {"radar": "linear"}}

Every member is optional, as is the file. Called by the formats whose published trees say nothing of themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eokit.data.formats.base import FormatInfo
from eokit.errors import DataError

FILE = "eokit.json"
TEXTS = ("title", "licence", "citation")
UNKNOWN = f"not known: {FILE} does not say"


@dataclass(frozen=True)
class Option:
    """One choice of a reader. meaning: for errors. default: its value unless the file says otherwise.

    allowed: its values where there are few, else any of the same kind as `example`.
    """

    meaning: str
    default: Any
    allowed: tuple[Any, ...] | None = None
    example: Any = None


@dataclass(frozen=True)
class About:
    """What eokit.json says. told: title, licence and citation, those that it has. options: every one of the reader."""

    synthetic: bool = False
    told: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, info: FormatInfo) -> dict[str, Any]:
        """Facts of a StoreSpec: the published data set, or data of someone else in its layout."""
        if not self.synthetic and not self.told:
            published = {"title": info.title, "licence": info.licence, "citation": info.citation}
            return {"dataset": info.name, "synthetic": False} | published
        kind = "Synthetic data" if self.synthetic else "Other data"
        unknown = {"title": f"{kind} in the layout of {info.title}", "licence": UNKNOWN, "citation": UNKNOWN}
        return {"dataset": f"{info.name}-layout", "synthetic": self.synthetic} | unknown | dict(self.told)


def read_about(root: Path, options: Mapping[str, Option]) -> About:
    """The eokit.json of the tree at `root`, defaults where there is none; DataError where it cannot be understood."""
    path = root / FILE
    if not path.is_file():
        return About(options={name: one.default for name, one in options.items()})
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); mend or remove it") from None
    known = (*TEXTS, "synthetic", "options")
    if not isinstance(found, dict) or (strange := sorted(found.keys() - set(known))):
        what = f"unknown {', '.join(strange)}" if isinstance(found, dict) else "no JSON object"
        raise DataError(f"{path}: {what}; expected some of {', '.join(known)}")
    told = {key: found[key] for key in TEXTS if key in found}
    if not all(isinstance(text, str) and text for text in told.values()):
        raise DataError(f"{path}: {', '.join(told)} must be text; found {list(told.values())}")
    given = found.get("options", {})
    if not isinstance(given, dict):
        raise DataError(f"{path}: options is {given!r}, expected an object such as {{{_examples(options)}}}")
    for name, value in given.items():
        _check(path, name, value, options)
    chosen = {name: given.get(name, one.default) for name, one in options.items()}
    return About(found.get("synthetic") is True, told, chosen)


def _check(path: Path, name: str, value: Any, options: Mapping[str, Option]) -> None:
    if name not in options:
        raise DataError(f"{path}: unknown option {name!r}; options here: {_examples(options) or 'none'}")
    one = options[name]
    if one.allowed is not None:
        if value not in one.allowed:
            allowed = ", ".join(map(json.dumps, one.allowed))
            raise DataError(f"{path}: {name} is {value!r}, expected one of {allowed} ({one.meaning})")
    elif value != one.default and not _alike(value, one.example):
        raise DataError(f"{path}: {name} is {value!r}, expected such as {json.dumps(one.example)} ({one.meaning})")


def _alike(value: Any, example: Any) -> bool:
    """Whether a value is of the kind of the example: a number, a text, a list of as many texts."""
    if isinstance(example, list):
        return isinstance(value, list) and len(value) == len(example) and all(isinstance(one, str) for one in value)
    if isinstance(example, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, type(example))


def _examples(options: Mapping[str, Option]) -> str:
    return ", ".join(f"{name} ({one.meaning})" for name, one in options.items())
