"""TreeSatAI-TS: tree genera of Lower Saxony, aerial images with a year of Sentinel-2 and Sentinel-1 over 60 m patches.

Aerial images of 304 px are cut to their inner 300 px: the 60 m that the 6 x 6 px of the Sentinels cover. Sentinel-1 is
published as linear power and stored in dB. Called by `eokit prepare treesatai` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eokit.data.formats.about import About, Option, read_about
from eokit.data.formats.base import Download, Findings, FormatInfo, OnError
from eokit.data.formats.dates import in_order, mid_summer, product_days
from eokit.data.formats.footprints import Grid, outline, require_geo
from eokit.data.formats.geotiff import crop_grid, read_image, read_image_header
from eokit.data.formats.hdf5 import Arrays, read_array, read_headers, require_h5
from eokit.data.formats.samples import choose_modalities, findings_of, keep_whole, limited, require_folder
from eokit.data.formats.treesatai_labels import GENERA, LABELS, SPLIT, Listed, read_listed
from eokit.data.formats.values import DB_STEP, decibel, store_decibel, store_reflectance
from eokit.data.preprocessing import NODATA
from eokit.data.sensors import get_sensor
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import DataError

INFO = FormatInfo(
    name="treesatai",
    title="TreeSatAI-TS",
    summary="50,381 forest patches of 60 x 60 m in Lower Saxony, aerial images and a year of Sentinel-2 and Sentinel-1",
    downloads=(
        Download("aerial.zip", "https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series", 15.9),
        Download("sentinel-ts.zip", "https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series", 6.1),
        Download("labels.zip and split.zip", "https://huggingface.co/datasets/IGNF/TreeSatAI-Time-Series", 0.001),
    ),
    licence="CC-BY-4.0",
    citation=(
        "Ahlswede et al., TreeSatAI Benchmark Archive: a multi-sensor, multi-label dataset for tree species"
        " classification in remote sensing, Earth System Science Data 2023; time series: Astruc et al., OmniSat:"
        " Self-Supervised Modality Fusion for Earth Observation, ECCV 2024"
    ),
    sensors=("aerial", "sentinel-2", "sentinel-1"),
    classes=GENERA,
    folds="1 train, 2 validation, 3 test, published",
    tree=f"[aerial/] sentinel-ts/ {LABELS} {SPLIT.format('{train,val,test}')}",
)

OPTIONS = {
    "aerial_bands": Option(
        "the order of the aerial bands, which sources tell differently",
        ["NIR", "G", "B", "R"],
        (["NIR", "G", "B", "R"], ["NIR", "R", "G", "B"]),
    ),
    "cloud_nodata": Option("percent of cloud or snow from which Sentinel-2 pixels are nodata", None, example=60),
}

AERIAL = "aerial"
PUBLISHED_EDGE, EDGE, AERIAL_GSD = 304, 300, 0.2
"""Pixels along an edge of a published aerial image, and of the part of it that is stored; metres a pixel."""
PIXELS, GSD = 6, 10.0
SENTINELS = ("sentinel-ts", "sentinel")
"""Folders that hold the h5 files: as published, and as AnySat calls it."""
MASKS = "sen-2-masks"
"""(T, 2 or 10, 6, 6): percent of snow, then of cloud; channels beyond these two are empty."""


@dataclass(frozen=True)
class SeriesArrays:
    """One modality in an h5 file: the prefix of its two arrays, `-data` (T, C, 6, 6) and `-products` (T,)."""

    prefix: str
    sensor: str
    bands: tuple[str, ...]
    scale: float


SERIES = {
    "s2": SeriesArrays("sen-2", "sentinel-2", get_sensor("sentinel-2").band_sets[10], 1.0),
    "s1-asc": SeriesArrays("sen-1-asc", "sentinel-1", get_sensor("sentinel-1").band_sets[2], DB_STEP),
    "s1-des": SeriesArrays("sen-1-des", "sentinel-1", get_sensor("sentinel-1").band_sets[2], DB_STEP),
}


def find(folder: Path) -> Path | None:
    """The tree at `folder`, or right below it."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for one in (folder, *below):
        if (one / LABELS).is_file() and any((one / name).is_dir() for name in SENTINELS):
            return one
    return None


def open_source(
    path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
) -> TreeSource:
    """A source of the patches of the tree at `path`, or of `limit` of them spread evenly over the splits."""
    looked = _look(path, modalities, limit)
    kept = keep_whole(looked.patches, looked.findings, on_error, looked.root)
    entries = [_entry(patch, looked) for patch in kept]
    orders = {patch.id: patch.orders for patch in kept if patch.orders}
    notes = tuple(looked.findings.notes)
    labels = {patch.id: patch.label for patch in kept}
    return TreeSource(_spec(looked), entries, looked.root, looked.sentinel, labels, orders, looked.about, notes)


def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
    """What is wrong with the copy at `path` and what it lacks."""
    return findings_of(lambda: _look(path, modalities, None).findings)


@dataclass(frozen=True)
class TreeSource:
    """Reads patches of one tree. labels: (15,) uint8 by patch. orders: what puts the dates of a series in order."""

    spec: StoreSpec
    entries: list[Entry]
    root: Path
    sentinel: str
    labels: Mapping[str, np.ndarray]
    orders: Mapping[str, Mapping[str, np.ndarray]]
    about: About
    notes: tuple[str, ...] = field(default=())

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, C, 6, 6) int16 with nodata in all bands of a pixel; (1, 4, 300, 300) uint8 of the aerial image."""
        if modality == AERIAL:
            return _inner(read_image(_aerial(self.root, entry.id)))[None]
        path = _series(self.root, self.sentinel, entry.id)
        array = read_array(path, f"{SERIES[modality].prefix}-data")
        stored, seen = store_reflectance(array) if modality == "s2" else store_decibel(decibel(array))
        if modality == "s2":
            if not seen:
                raise DataError(
                    f"{path}: no valid pixel in any of its {len(stored)} dates; remove the patch {entry.id}"
                )
            self._hide_clouds(path, stored)
        order = self.orders.get(entry.id, {}).get(modality)
        return stored if order is None else stored[order]

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """Multilabel (15,) uint8: 1 for each genus that covers more than 7 % of the patch."""
        return {"multilabel": self.labels[entry.id]}

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of the h5 file and the aerial image of one patch."""
        names = {modality.name for modality in self.spec.modalities}
        paths = [_aerial(self.root, entry.id)] * (AERIAL in names)
        paths += [_series(self.root, self.sentinel, entry.id)] * bool(names & SERIES.keys())
        return sum(path.stat().st_size for path in paths if path.exists())

    def _hide_clouds(self, path: Path, stored: np.ndarray) -> None:
        """Nodata where snow or cloud are at least as likely as the option `cloud_nodata` says."""
        limit = self.about.options["cloud_nodata"]
        if limit is not None:
            hidden = (read_array(path, MASKS)[:, :2] >= limit).any(axis=1)
            np.copyto(stored, NODATA, where=hidden[:, None])


@dataclass(frozen=True)
class Patch:
    """One patch whose headers were read. days: by modality. orders: of the series whose dates are not ascending."""

    id: str
    fold: int
    label: np.ndarray
    days: Mapping[str, np.ndarray]
    orders: Mapping[str, np.ndarray]
    grid: Grid


@dataclass(frozen=True)
class _Looked:
    root: Path
    sentinel: str
    modalities: tuple[str, ...]
    about: About
    patches: list[Patch]
    findings: Findings


def _look(path: Path, modalities: Sequence[str] | None, limit: int | None) -> _Looked:
    require_folder(path, LABELS)
    require_geo()
    require_h5()
    root, findings = find(path) or path, Findings()
    sentinel = next((name for name in SENTINELS if (root / name).is_dir()), None)
    if sentinel is None:
        raise DataError(f"{root / SENTINELS[0]}: no such folder; it holds the series, and the year of the images")
    found = [AERIAL] * (root / AERIAL).is_dir() + [*SERIES]
    chosen = choose_modalities(found, modalities, (AERIAL, *SERIES), INFO.title, root)
    if modalities is None and AERIAL not in found:
        findings.note(f"no folder {AERIAL}: the store has no aerial images")
    listed = limited(read_listed(root, findings), limit)
    patches = [_patch(root, sentinel, chosen, one, findings) for one in listed]
    return _Looked(root, sentinel, chosen, read_about(root, OPTIONS), patches, findings)


def _patch(root: Path, sentinel: str, chosen: Sequence[str], listed: Listed, findings: Findings) -> Patch:
    """The patch as far as headers tell; what is wrong goes to `findings`."""
    days: dict[str, np.ndarray] = {}
    orders: dict[str, np.ndarray] = {}
    path, grid = _series(root, sentinel, listed.id), Grid()
    try:
        arrays = read_headers(path, [f"{one.prefix}-products" for one in SERIES.values()])
        for name in SERIES:
            found = _days(path, name, arrays)
            days[name], order = in_order(found)
            if order is not None:
                orders[name] = order
        if AERIAL in chosen:
            grid = _aerial_grid(_aerial(root, listed.id))
            days[AERIAL] = np.array([mid_summer(days["s2"])], np.int32)
    except DataError as error:
        findings.damage("aerial" if len(days) == len(SERIES) else "series", error, listed.id)
    return Patch(listed.id, listed.fold, listed.label, {name: days.get(name, _NONE) for name in chosen}, orders, grid)


_NONE = np.zeros(0, np.int32)


def _days(path: Path, name: str, arrays: Arrays) -> np.ndarray:
    """(T,) days of a modality; DataError where its arrays are not as published."""
    layer = SERIES[name]
    data, products = f"{layer.prefix}-data", f"{layer.prefix}-products"
    for needed in (data, products):
        if needed not in arrays.shapes:
            raise DataError(f"{path}: no array {needed}; it has {', '.join(sorted(arrays.shapes)) or 'none'}")
    shape, texts = arrays.shapes[data], arrays.texts[products]
    expected = (len(texts), len(layer.bands), PIXELS, PIXELS)
    if shape != expected:
        raise DataError(f"{path}: {data} has shape {shape}, expected {expected}: one date for each of {products}")
    if np.dtype(arrays.dtypes[data]).kind not in "fiu":
        raise DataError(f"{path}: {data} is {arrays.dtypes[data]}, expected float32")
    if name == "s2" and not texts:
        raise DataError(f"{path}: {data} holds no date; remove the patch from {SPLIT.format('*')}")
    if name == "s2" and arrays.shapes.get(MASKS, (len(texts), 2))[:2] not in ((len(texts), 2), (len(texts), 10)):
        raise DataError(f"{path}: {MASKS} has shape {arrays.shapes[MASKS]}, expected ({len(texts)}, 2 or 10, 6, 6)")
    try:
        return product_days(texts)
    except ValueError as error:
        raise DataError(f"{path}: {products}: {error}") from None


def _aerial_grid(path: Path) -> Grid:
    """Where the inner 300 px of an aerial image lie; DataError where the image is not as published."""
    header = read_image_header(path, ("uint8",))
    if header.bands != 4 or header.size not in ((PUBLISHED_EDGE,) * 2, (EDGE,) * 2):
        found = f"{header.bands} bands of {header.size[0]} x {header.size[1]} px"
        raise DataError(f"{path}: {found}, expected 4 bands of {PUBLISHED_EDGE} x {PUBLISHED_EDGE} px")
    if header.transform is None:
        return Grid()
    return outline(header.crs, crop_grid(header.transform, (header.size[0] - EDGE) // 2), (EDGE, EDGE))


def _entry(patch: Patch, looked: _Looked) -> Entry:
    grid = patch.grid
    return Entry(patch.id, patch.fold, patch.days, grid.crs, grid.transform, grid.footprint)


def _spec(looked: _Looked) -> StoreSpec:
    series = []
    for name in looked.modalities:
        if name == AERIAL:
            bands = tuple(looked.about.options["aerial_bands"])
            series.append(ModalitySpec(name, "aerial", bands, (4, EDGE, EDGE), "uint8", nodata=None, gsd=AERIAL_GSD))
        else:
            layer = SERIES[name]
            shape = (len(layer.bands), PIXELS, PIXELS)
            series.append(ModalitySpec(name, layer.sensor, layer.bands, shape, "int16", layer.scale, NODATA, GSD))
    labels = (LabelSpec("multilabel", "uint8", (len(GENERA),), GENERA),)
    return StoreSpec(**looked.about.origin(INFO), modalities=tuple(series), labels=labels)


def _inner(image: np.ndarray) -> np.ndarray:
    """The middle 300 x 300 px of (C, H, W)."""
    edge = (image.shape[-1] - EDGE) // 2
    return image[:, edge : edge + EDGE, edge : edge + EDGE]


def _aerial(root: Path, id: str) -> Path:
    return root / AERIAL / f"{id}.tif"


def _series(root: Path, sentinel: str, id: str) -> Path:
    return root / sentinel / f"{id}.h5"
