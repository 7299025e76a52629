"""Published data sets, one file each; a new one is one new file and one line in `FORMATS`.

The command line (`eokit prepare`, `eokit datasets`) asks here; `formats/base.py` says what such a file offers.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from eokit.errors import DataError, UsageError

if TYPE_CHECKING:
    from eokit.data.formats.base import Format

FORMATS = {
    "pastis": "eokit.data.formats.pastis",
    "treesatai": "eokit.data.formats.treesatai",
    "planted": "eokit.data.formats.planted",
    "flair": "eokit.data.formats.flair",
    "s2naip": "eokit.data.formats.s2naip",
}


def get_format(name: str) -> Format:
    """The format called `name`, its module imported now; a UsageError lists the known ones."""
    try:
        return cast("Format", import_module(FORMATS[name]))
    except KeyError:
        raise UsageError(f"unknown data set {name!r}; data sets: {', '.join(FORMATS)}") from None


def find_tree(published: Format) -> Path:
    """The data set's tree in $EOKIT_DATA or ./data; a DataError that says where to get it when it is in neither."""
    given = os.environ.get("EOKIT_DATA")
    places = [Path(given)] if given else []
    for place in (*places, Path("data")):
        if (tree := published.find(place)) is not None:
            return tree
    info, name = published.INFO, published.INFO.name
    looked = f"$EOKIT_DATA ({given})" if given else "$EOKIT_DATA (not set)"
    raise DataError(
        f"no {info.title} in {looked} or ./data; a copy is a folder with {info.tree}",
        *(f"get it: {one.title}, {one.size}, {one.url} ({info.licence})" for one in info.downloads),
        f"then: eokit prepare {name} FOLDER; or try a synthetic season: eokit prepare {name} --synthetic",
    )
