"""The files of S2NAIP: which tiles there are, their dates, and whether every image holds them.

    naip/<tile>.png                       512 x 512 px, R G B NIR
    sentinel2/<tile>_8.tif, _16.tif       T x 4 bands of 64 px, T x 6 bands of 32 px, the bands of a date together
    sentinel1/<tile>.tif                  T x 2 bands of 64 px
    landsat/<tile>_8.tif, _16.tif         T bands of 64 px, T x 10 bands of 32 px
    {train,val,test}_dict.json            AnySat's index: name, s2_dates, s1_dates, l8_dates

<tile> = <EPSG>_<column>_<row>, cells of 640 m; rows count southwards. Called by `s2naip.py` before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eokit.data.formats.base import Findings
from eokit.data.formats.dates import in_order, parse_day
from eokit.data.formats.footprints import Grid, outline
from eokit.data.formats.geotiff import read_image_header
from eokit.data.formats.tables import read_table
from eokit.errors import DataError

CELL = 640.0
"""Metres along an edge of a tile."""
NAIP, NAIP_EDGE, NAIP_GSD = "naip", 512, 1.25
EDGE, GSD = 64, 10.0
INDEX = "{}_dict.json"
FOLDS = {"train": 1, "val": 2, "test": 3}


class Stack(NamedTuple):
    """One file of a series: the end of its name, its pixels along an edge, its bands of a date."""

    suffix: str
    edge: int
    bands: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One modality: its folder, its files, the key of its dates in the index, dtypes that its values may have."""

    folder: str
    dates: str
    dtypes: tuple[str, ...]
    stacks: tuple[Stack, ...]

    def file(self, root: Path, id: str, stack: Stack) -> Path:
        """Where one of the files of a tile is."""
        return root / self.folder / f"{id}{stack.suffix}.tif"


_COUNTS = ("uint16", "int16", "float32")
_LANDSAT = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11")
LAYERS = {
    "s2": Layer(
        "sentinel2",
        "s2_dates",
        _COUNTS,
        (Stack("_8", 64, ("B02", "B03", "B04", "B08")), Stack("_16", 32, ("B05", "B06", "B07", "B8A", "B11", "B12"))),
    ),
    "s1": Layer("sentinel1", "s1_dates", ("float32", "float64"), (Stack("", 64, ("VV", "VH")),)),
    "l8": Layer("landsat", "l8_dates", _COUNTS, (Stack("_8", 64, ("B8",)), Stack("_16", 32, _LANDSAT))),
}


@dataclass(frozen=True)
class Tile:
    """One tile whose headers were read. days: by modality, ascending. orders: of those that were not."""

    id: str
    fold: int
    days: Mapping[str, np.ndarray]
    orders: Mapping[str, np.ndarray]
    grid: Grid


class Listed(NamedTuple):
    """A tile before its headers are read. dates: by modality, as the index has them."""

    id: str
    fold: int
    dates: Mapping[str, Any]


def list_tiles(root: Path) -> list[Listed]:
    """Every tile of the indexes that are there; DataError where there is none or it cannot be understood."""
    found = {split: root / INDEX.format(split) for split in FOLDS if (root / INDEX.format(split)).is_file()}
    if not found:
        raise DataError(
            f"{root}: no {INDEX.format('{train,val,test}')}, without which tiles have no dates; expected AnySat's:"
            ' {"name": ["32612_960_-6049", ...], "s2_dates": [[20200412, ...], ...], "s1_dates": ..., "l8_dates": ...}'
        )
    listed: dict[str, Listed] = {}
    for split, path in found.items():
        table = _read_index(path)
        for row, id in enumerate(table["name"]):
            if id in listed:
                raise DataError(f"{path}: tile {id} is listed twice, expected once; remove one of them")
            dates = {name: table[layer.dates][row] for name, layer in LAYERS.items() if layer.dates in table}
            listed[id] = Listed(id, FOLDS[split], dates)
    return list(listed.values())


def read_tile(root: Path, listed: Listed, modalities: Sequence[str], naip_day: int | None, findings: Findings) -> Tile:
    """The tile as far as headers tell; what is wrong goes to `findings`.

    naip_day: that of the NAIP image; None: the middle one of the longest series of the tile.
    """
    days: dict[str, np.ndarray] = {}
    orders: dict[str, np.ndarray] = {}
    name, grid = "tile", Grid()
    try:
        grid = _grid(root, listed.id)
        for name in modalities:
            if name == NAIP:
                _check_image(root / NAIP / f"{listed.id}.png")
                days[name] = np.array([_middle_day(root, listed) if naip_day is None else naip_day], np.int32)
                continue
            found = _days(root, name, listed)
            _check_stacks(root, name, listed.id, len(found))
            days[name], order = in_order(found)
            if order is not None:
                orders[name] = order
    except DataError as error:
        findings.damage(name, error, listed.id)
    return Tile(listed.id, listed.fold, days, orders, grid)


def _days(root: Path, name: str, listed: Listed) -> np.ndarray:
    """(T,) days of a modality in the order of its files."""
    if name not in listed.dates:
        raise DataError(f"{root}: the index has no {LAYERS[name].dates}, needed for {name}; choose with --modalities")
    dates = listed.dates[name]
    if not isinstance(dates, list):
        raise DataError(f"{root}: {LAYERS[name].dates} of {listed.id} is {dates!r:.60}, expected [20200412, ...]")
    try:
        return np.array([parse_day(str(one)) for one in dates], np.int32)
    except ValueError as error:
        raise DataError(f"{root}: {LAYERS[name].dates} of {listed.id}: {error}, expected YYYYMMDD") from None


def _middle_day(root: Path, listed: Listed) -> int:
    series = [_days(root, name, listed) for name in listed.dates]
    longest = np.sort(max(series, key=len, default=np.zeros(0, np.int32)))
    if not len(longest):
        raise DataError(f'{root}: no series tells when {listed.id} was seen; say "naip_date" in eokit.json')
    return int(longest[len(longest) // 2])


def _check_stacks(root: Path, name: str, id: str, dates: int) -> None:
    """DataError unless the files of a series hold as many dates as the index says; none are needed for no date."""
    layer = LAYERS[name]
    for stack in layer.stacks if dates else ():
        path = layer.file(root, id, stack)
        header = read_image_header(path, layer.dtypes)
        if header.size != (stack.edge,) * 2:
            raise DataError(f"{path}: {header.size[0]} x {header.size[1]} px, expected {stack.edge} x {stack.edge} px")
        if header.bands != dates * len(stack.bands):
            raise DataError(
                f"{path}: {header.bands} bands, expected {dates} dates of {len(stack.bands)} ({' '.join(stack.bands)})"
            )


def _check_image(path: Path) -> None:
    header = read_image_header(path, ("uint8",))
    if (header.bands, header.size) != (4, (NAIP_EDGE,) * 2):
        found = f"{header.bands} bands of {header.size[0]} x {header.size[1]} px"
        raise DataError(f"{path}: {found}, expected 4 bands (R G B NIR) of {NAIP_EDGE} x {NAIP_EDGE} px")


def _grid(root: Path, id: str) -> Grid:
    """The grid of the NAIP image that the name of a tile tells."""
    match = re.fullmatch(r"(32[67]\d\d)_(-?\d+)_(-?\d+)", str(id))
    if match is None:
        raise DataError(f"{root}: tile {id!r} in the index, expected <EPSG>_<column>_<row> such as 32612_960_-6049")
    left, top = int(match[2]) * CELL, -int(match[3]) * CELL
    return outline(f"EPSG:{match[1]}", (NAIP_GSD, 0.0, left, 0.0, -NAIP_GSD, top), (NAIP_EDGE, NAIP_EDGE))


def _read_index(path: Path) -> dict[str, list]:
    form = '{"name": ["32612_960_-6049", ...], "s2_dates": [[20200412, ...], ...]}'
    table = read_table(path, form)
    if not isinstance(table.get("name"), list):
        raise DataError(f"{path}: expected {form}")
    for layer in LAYERS.values():
        rows = table.get(layer.dates, table["name"])
        if not isinstance(rows, list) or len(rows) != len(table["name"]):
            raise DataError(f"{path}: {layer.dates} has not one list for each of the {len(table['name'])} names")
    return table
