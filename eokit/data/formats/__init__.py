"""Published data sets, one file each; a new one is one new file and one line in `FORMATS`.

The command line (`eokit prepare`, `eokit datasets`) asks here; `formats/base.py` says what such a file offers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from eokit.errors import UsageError

if TYPE_CHECKING:
    from eokit.data.formats.base import Format

FORMATS = {"pastis": "eokit.data.formats.pastis"}


def get_format(name: str) -> Format:
    """The format called `name`, its module imported now; a UsageError lists the known ones."""
    try:
        return cast("Format", import_module(FORMATS[name]))
    except KeyError:
        raise UsageError(f"unknown data set {name!r}; data sets: {', '.join(FORMATS)}") from None
