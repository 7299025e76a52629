"""The two forms in which PLANTED is passed on, npz shards and a folder for each patch, and what is in them.

    <split>/<number>_d<number>.npz      arrays s2, s2_mask, s2_timestamps, ..., species; the first axis is the patch
    <split>/labels2.json                {id: class number} of AnySat's copy, with
    <split>/<id>/<id>_s2.npz ..._s2_mask.npz ..._s2_timestamp.npz      one array, arr_0, in each

Called by `planted.py` before anything is written: headers, dates and classes are read, never pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.formats.base import Findings
from eokit.data.formats.npy import Header
from eokit.data.formats.npz import read_headers, read_member
from eokit.data.formats.planted_species import SPECIES, class_number
from eokit.data.formats.tables import read_table
from eokit.errors import DataError

FOLDS = {"train": 1, "val": 2, "validation": 2, "test": 3}
LABELS = "labels2.json"
SHARDS = "*_d*.npz"
MS_A_DAY = 86_400_000
LOOKED_AT = 16
"""Patches that tell which modalities a copy has."""


@dataclass(frozen=True)
class Layer:
    """One modality: its edge in pixels, how many channels are published, how many of the first are used."""

    edge: int
    published: int
    used: int


LAYERS = {
    "s2": Layer(12, 10, 10),
    "s1": Layer(12, 3, 2),
    "l7": Layer(4, 6, 6),
    "alos": Layer(4, 3, 2),
    "modis": Layer(1, 7, 7),
}


@dataclass(frozen=True)
class Place:
    """Where the arrays of a patch are: row `row` of the shard `path`, or the folder `path` of the patch `id`."""

    id: str
    path: Path
    row: int | None

    def file(self, name: str, part: str) -> Path:
        """The file that holds `part` ("", "_mask", "_timestamps") of a modality."""
        return self.path if self.row is not None else self.path / f"{self.id}_{name}{part.removesuffix('s')}.npz"

    def read(self, name: str, part: str = "") -> np.ndarray:
        """(T, H, W, C) values or masks, or (T,) timestamps in ms."""
        if self.row is None:
            return read_member(self.file(name, part), "arr_0")
        return _shard_array(self.path, name + part)[self.row]


@dataclass(frozen=True)
class Patch:
    """One patch. days: by modality, ascending. kept: which of its steps they are of, in that order.

    lonlat: its centre in degrees where the copy tells it.
    """

    id: str
    fold: int
    place: Place
    label: int
    days: Mapping[str, np.ndarray]
    kept: Mapping[str, np.ndarray]
    lonlat: tuple[float, float] | None = None


@dataclass(frozen=True)
class Listed:
    """A patch before its dates are read. label: a class number, or the name of a species as it is written."""

    id: str
    fold: int
    place: Place
    label: int | str


def list_patches(root: Path, label_key: str, findings: Findings) -> list[Listed]:
    """Every patch of every split that is there; DataError where there is none."""
    _shard_headers.cache_clear()  # the copy may have been mended since it was last looked at
    _shard_array.cache_clear()
    found: list[Listed] = []
    for split, fold in FOLDS.items():
        folder = root / split
        if (folder / LABELS).is_file():
            found += _list_folders(folder, fold)
        for shard in sorted(folder.glob(SHARDS)) if folder.is_dir() else ():
            try:
                found += _list_shard(shard, split, fold, label_key)
            except DataError as error:
                findings.damage("shard", error, f"{split}-{shard.stem}")
                found.append(Listed(f"{split}-{shard.stem}", fold, Place("", shard, 0), -1))
    if not found:
        records = next(root.rglob("*.tfrecord*"), None)
        if records is not None:
            raise DataError(
                f"{records}: TFRecords of PLANTED are not read, because the names of their features are not documented;"
                " convert them to shards <split>/0000_d5000.npz with arrays s2, s2_mask, s2_timestamps, ..., species"
            )
        raise DataError(f"{root}: no <split>/{LABELS} and no <split>/{SHARDS} there; splits are {', '.join(FOLDS)}")
    return found


def modalities_of(listed: Sequence[Listed]) -> list[str]:
    """The modalities that any of the first patches has: one that lacks a file is broken, not a copy without it."""
    found: set[str] = set()
    for one in listed[:LOOKED_AT]:
        try:
            found |= _modalities(one.place)
        except DataError:
            continue
    return [name for name in LAYERS if name in found]


def _modalities(place: Place) -> set[str]:
    if place.row is not None:
        return LAYERS.keys() & _shard_headers(place.path).keys()
    return {name for name in LAYERS if place.file(name, "").is_file()}


def read_patch(listed: Listed, modalities: Sequence[str], findings: Findings) -> Patch:
    """The patch with its dates; what is wrong with it goes to `findings`."""
    days: dict[str, np.ndarray] = {}
    kept: dict[str, np.ndarray] = {}
    label, name = 0, "label"
    try:
        label = listed.label if isinstance(listed.label, int) else class_number(listed.label)
        if not 0 <= label < len(SPECIES):
            raise DataError(f"{listed.place.path}: class {label} of {listed.id}, expected 0 to {len(SPECIES) - 1}")
        for name in modalities:
            _check_headers(listed.place, name)
            days[name], kept[name] = _days(listed.place, name)
        return Patch(listed.id, listed.fold, listed.place, label, days, kept, _lonlat(listed.place))
    except ValueError as error:
        findings.damage(name, DataError(f"{listed.place.path}: {error}"), listed.id)
    except DataError as error:
        findings.damage(name, error, listed.id)
    nothing = np.zeros(0, np.int32)
    return Patch(listed.id, listed.fold, listed.place, 0, dict.fromkeys(modalities, nothing), {})


def _list_folders(folder: Path, fold: int) -> list[Listed]:
    path = folder / LABELS
    form = '{"<id>": class number, ...}'
    table = read_table(path, form)
    if not table:
        raise DataError(f"{path}: expected {form}, found nothing in it")
    return [Listed(id, fold, Place(id, folder / id, None), _class(path, id, value)) for id, value in table.items()]


def _class(path: Path, id: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{path}: {id} has the class {value!r}, expected a number from 0 to {len(SPECIES) - 1}")
    return value


def _list_shard(shard: Path, split: str, fold: int, label_key: str) -> Iterator[Listed]:
    headers = _shard_headers(shard)
    if label_key not in headers:
        there = ", ".join(sorted(headers))
        raise DataError(
            f'{shard}: no array {label_key} of species; it has {there}; name it as "label_key" in eokit.json'
        )
    species = read_member(shard, label_key).ravel()
    for row, one in enumerate(species):
        text = one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
        id = f"{split}-{shard.stem}-{row:05d}"
        yield Listed(id, fold, Place(id, shard, row), text)


def _check_headers(place: Place, name: str) -> None:
    """DataError unless values, mask and timestamps of a modality fit each other and what is published."""
    layer = LAYERS[name]
    values, mask, stamps = (_header(place, name, part) for part in ("", "_mask", "_timestamps"))
    steps = values.shape[:1]
    expected = (*steps, layer.edge, layer.edge)
    if len(values.shape) != 4 or values.shape[:3] != expected or not layer.used <= values.shape[3] <= layer.published:
        wanted = f"(T, {layer.edge}, {layer.edge}, {layer.published})"
        raise DataError(f"{place.file(name, '')}: {name} has shape {values.shape}, expected {wanted} (T, H, W, C)")
    if mask.shape[:3] != expected or len(mask.shape) > 4:
        raise DataError(f"{place.file(name, '_mask')}: {name}_mask has shape {mask.shape}, expected {values.shape}")
    if stamps.shape != steps:
        raise DataError(f"{place.file(name, '_timestamps')}: {name} has {stamps.shape} timestamps for {steps[0]} steps")
    for part, header, kinds in (("", values, "iuf"), ("_mask", mask, "biuf"), ("_timestamps", stamps, "iuf")):
        if header.dtype.kind not in kinds:
            raise DataError(f"{place.file(name, part)}: {name}{part} is {header.dtype.name}, expected numbers")


def _header(place: Place, name: str, part: str) -> Header:
    """The header of one array of the patch, without the axis of the patches of a shard."""
    path = place.file(name, part)
    headers = read_headers(path) if place.row is None else _shard_headers(path)
    key = "arr_0" if place.row is None else name + part
    if key not in headers:
        raise DataError(f"{path}: no array {key}; it has {', '.join(sorted(headers)) or 'none'}")
    header = headers[key]
    if place.row is None:
        return header
    if not header.shape or header.shape[0] <= place.row:
        raise DataError(f"{path}: {key} has shape {header.shape}, expected a first axis of one row a species")
    return Header(header.shape[1:], header.dtype)


def _days(place: Place, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Days (t,) of the steps that have a date, ascending, and which steps they are."""
    stamps = place.read(name, "_timestamps")
    if stamps.dtype.kind == "f" and not np.isfinite(stamps).all():
        raise DataError(f"{place.file(name, '_timestamps')}: {name}: a timestamp is NaN, expected ms since 1970-01-01")
    days = stamps.astype(np.int64) // MS_A_DAY
    dated = np.flatnonzero(days > 0)
    if len(dated) and days[dated].max() >= 40_000:
        raise DataError(
            f"{place.file(name, '_timestamps')}: {name}: {int(stamps.max())} is no date of a satellite in ms since 1970"
        )
    order = dated[np.argsort(days[dated], kind="stable")]
    return days[order].astype(np.int32), order


def _lonlat(place: Place) -> tuple[float, float] | None:
    """Longitude and latitude of a patch of a shard that has them."""
    if place.row is None or not {"lon", "lat"} <= _shard_headers(place.path).keys():
        return None
    lon, lat = (float(_shard_array(place.path, name).ravel()[place.row]) for name in ("lon", "lat"))
    return (lon, lat) if abs(lon) <= 180 and abs(lat) <= 90 else None


@lru_cache(maxsize=8)
def _shard_headers(path: Path) -> dict[str, Header]:
    return read_headers(path)


@lru_cache(maxsize=16)
def _shard_array(path: Path, name: str) -> np.ndarray:
    """A whole array of a shard: patches are read one after the other, so that each shard is read once a modality."""
    return read_member(path, name)
