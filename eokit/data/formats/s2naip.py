"""S2NAIP and its urban subset: NAIP images of the United States with Sentinel-2, Sentinel-1 and Landsat on 640 m.

Bands of 20 m and 30 m come as 32 px and are brought to 64 px bilinearly, as AnySat does. Sentinel-2 is of level 1C,
Landsat in digital numbers. There are no labels. Called by `eokit prepare s2naip` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from eokit.data.formats.about import About, Option, read_about
from eokit.data.formats.base import Download, Findings, FormatInfo, OnError
from eokit.data.formats.dates import parse_day
from eokit.data.formats.footprints import require_geo
from eokit.data.formats.geotiff import read_image
from eokit.data.formats.s2naip_tree import (
    EDGE,
    FOLDS,
    GSD,
    INDEX,
    LAYERS,
    NAIP,
    NAIP_EDGE,
    NAIP_GSD,
    Tile,
    list_tiles,
    read_tile,
)
from eokit.data.formats.samples import choose_modalities, findings_of, keep_whole, limited, require_folder
from eokit.data.formats.values import DB_STEP, as_decibel, store_decibel, store_reflectance, with_ratio
from eokit.data.preprocessing import NODATA
from eokit.data.sensors import get_sensor
from eokit.data.spec import Entry, ModalitySpec, StoreSpec
from eokit.errors import DataError

INFO = FormatInfo(
    name="s2naip",
    title="S2NAIP",
    summary="tiles of 640 x 640 m in the United States, NAIP of 1.25 m with Sentinel-2, Sentinel-1 and Landsat-8/9",
    downloads=(Download("S2NAIP (tar files by UTM zone)", "https://huggingface.co/datasets/allenai/s2-naip", None),),
    licence="Apache-2.0",
    citation="Allen Institute for AI, S2-NAIP, https://huggingface.co/datasets/allenai/s2-naip",
    sensors=("naip", "sentinel-2", "sentinel-1", "landsat-8-dn"),
    classes=(),
    folds="1 train, 2 validation, 3 test, as AnySat's index says",
    tree=f"[naip/] [sentinel2/] [sentinel1/] [landsat/] {INDEX.format('{train,val,test}')}",
)

OPTIONS = {
    "radar": Option("the unit of Sentinel-1, inferred from how others scale it", "dB", ("dB", "linear")),
    "naip_date": Option("YYYYMMDD of all NAIP images, whose days the index does not have", None, example="20200701"),
}

EMPTY = 0
"""Digital number of a pixel without a value, in Sentinel-2 of level 1C as in Landsat."""

SPECS: Mapping[str, tuple[str, tuple[str, ...], str, float, int]] = {
    "s2": ("sentinel-2", get_sensor("sentinel-2").band_sets[10], "int16", 1.0, NODATA),
    "s1": ("sentinel-1", get_sensor("sentinel-1").band_sets[3], "int16", DB_STEP, NODATA),
    "l8": ("landsat-8-dn", get_sensor("landsat-8-dn").band_names, "uint16", 1.0, EMPTY),
}
"""Modality -> sensor, bands, dtype, scale, nodata of the store."""


def find(folder: Path) -> Path | None:
    """The tree at `folder`, or right below it."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for one in (folder, *below):
        if any((one / INDEX.format(split)).is_file() for split in FOLDS) and _modalities(one):
            return one
    return None


def open_source(
    path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
) -> NaipSource:
    """A source of the tiles of the tree at `path`, or of `limit` of them spread evenly over the splits."""
    looked = _look(path, modalities, limit)
    kept = keep_whole(looked.tiles, looked.findings, on_error, looked.root)
    entries = [_entry(tile, looked) for tile in kept]
    orders = {tile.id: tile.orders for tile in kept if tile.orders}
    return NaipSource(_spec(looked), entries, looked.root, orders, looked.about, tuple(looked.findings.notes))


def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
    """What is wrong with the copy at `path` and what it lacks."""
    return findings_of(lambda: _look(path, modalities, None).findings)


@dataclass(frozen=True)
class NaipSource:
    """Reads tiles of one tree. orders: what puts the dates of a series in order."""

    spec: StoreSpec
    entries: list[Entry]
    root: Path
    orders: Mapping[str, Mapping[str, np.ndarray]]
    about: About
    notes: tuple[str, ...] = field(default=())

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, C, 64, 64) in the stored dtype with nodata in all bands of a pixel; (1, 4, 512, 512) uint8 of NAIP."""
        if modality == NAIP:
            return read_image(self.root / NAIP / f"{entry.id}.png")[None]
        _, bands, dtype, _, _ = SPECS[modality]
        if not len(entry.days[modality]):
            return np.zeros((0, len(bands), EDGE, EDGE), dtype)
        images, empty = self._stacked(entry, modality, bands)
        if modality == "s1":
            path = LAYERS["s1"].file(self.root, entry.id, LAYERS["s1"].stacks[0])
            stored = store_decibel(with_ratio(as_decibel(images, self.about.options["radar"], path)))[0]
        elif modality == "s2":
            stored = store_reflectance(np.where(empty, np.nan, images))[0]
        else:
            kept = np.clip(np.rint(images), 1, np.iinfo(np.uint16).max)
            stored = np.where(empty, EMPTY, kept).astype(np.uint16)
        order = self.orders.get(entry.id, {}).get(modality)
        return stored if order is None else stored[order]

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """Nothing: S2NAIP has no labels."""
        return {}

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of the files of one tile."""
        paths = []
        for one in self.spec.modalities:
            if one.name == NAIP:
                paths.append(self.root / NAIP / f"{entry.id}.png")
            else:
                layer = LAYERS[one.name]
                paths += [layer.file(self.root, entry.id, stack) for stack in layer.stacks]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _stacked(self, entry: Entry, modality: str, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(T, C, 64, 64) float32 in the order of `bands`, and (T, 1, 64, 64) where a band has no value.

        Radar that is 0 in both bands, or not finite, is NaN.
        """
        layer, dates = LAYERS[modality], len(entry.days[modality])
        names: list[str] = []
        images, empty = [], np.zeros((dates, 1, EDGE, EDGE), bool)
        for stack in layer.stacks:
            names += stack.bands
            values = read_image(layer.file(self.root, entry.id, stack)).astype(np.float32)
            values = values.reshape(dates, len(stack.bands), stack.edge, stack.edge)
            holes = (values == EMPTY).any(axis=1, keepdims=True)
            if modality == "s1":
                holes = (values == EMPTY).all(axis=1, keepdims=True) | ~np.isfinite(values).all(axis=1, keepdims=True)
                values = np.where(holes, np.nan, values)
            if stack.edge != EDGE:
                values, holes = _double(values), holes.repeat(2, axis=2).repeat(2, axis=3)
            images.append(values)
            empty |= holes
        whole = np.concatenate(images, axis=1)
        return (whole if modality == "s1" else whole[:, [names.index(band) for band in bands]]), empty


@dataclass(frozen=True)
class _Looked:
    root: Path
    modalities: tuple[str, ...]
    about: About
    tiles: list[Tile]
    findings: Findings


def _look(path: Path, modalities: Sequence[str] | None, limit: int | None) -> _Looked:
    require_folder(path, INDEX.format("train"))
    require_geo()
    root, findings = find(path) or path, Findings()
    about, found = read_about(root, OPTIONS), _modalities(root)
    known = (NAIP, *LAYERS)
    listed = limited(list_tiles(root), limit)
    chosen = choose_modalities(found, modalities, known, INFO.title, root)
    if not chosen:
        raise DataError(f"{root}: none of the folders naip, {', '.join(one.folder for one in LAYERS.values())} there")
    missing = [name for name in known if name not in found]
    if modalities is None and missing:
        findings.note(f"no folder of {', '.join(missing)}: the store goes without")
    naip_day = _naip_day(about, root)
    if NAIP in chosen and naip_day is None:
        findings.note("the days of NAIP images are not in the index: they get that of the middle date of their tile")
    tiles = [read_tile(root, one, chosen, naip_day, findings) for one in listed]
    return _Looked(root, chosen, about, tiles, findings)


def _modalities(root: Path) -> list[str]:
    folders = {NAIP: NAIP} | {name: layer.folder for name, layer in LAYERS.items()}
    return [name for name, folder in folders.items() if (root / folder).is_dir()]


def _entry(tile: Tile, looked: _Looked) -> Entry:
    transform = tile.grid.transform
    if transform is not None and NAIP not in looked.modalities:
        transform = (GSD, 0.0, transform[2], 0.0, -GSD, transform[5])
    return Entry(tile.id, tile.fold, tile.days, tile.grid.crs, transform, tile.grid.footprint)


def _naip_day(about: About, root: Path) -> int | None:
    """The day that the option `naip_date` gives to all images."""
    given = about.options["naip_date"]
    if given is None:
        return None
    try:
        return parse_day(given)
    except ValueError as error:
        raise DataError(f"{root / 'eokit.json'}: naip_date: {error}, expected YYYYMMDD") from None


def _spec(looked: _Looked) -> StoreSpec:
    series = []
    for name in looked.modalities:
        if name == NAIP:
            bands = get_sensor("naip").band_names
            shape = (len(bands), NAIP_EDGE, NAIP_EDGE)
            series.append(ModalitySpec(NAIP, "naip", bands, shape, "uint8", nodata=None, gsd=NAIP_GSD))
        else:
            sensor, bands, dtype, scale, nodata = SPECS[name]
            series.append(ModalitySpec(name, sensor, bands, (len(bands), EDGE, EDGE), dtype, scale, nodata, GSD))
    return StoreSpec(**looked.about.origin(INFO), modalities=tuple(series))


def _double(images: np.ndarray) -> np.ndarray:
    """(T, C, 32, 32) to (T, C, 64, 64), linear between the centres of the pixels."""
    weights = _weights(images.shape[-1])
    return weights @ images @ weights.T


@cache
def _weights(length: int) -> np.ndarray:
    """(2 x length, length) weights of the nearest pixels of a line for every pixel of half the size."""
    at = (np.arange(2 * length) + 0.5) / 2 - 0.5
    return np.array([np.interp(at, np.arange(length), row) for row in np.eye(length)], np.float32).T
