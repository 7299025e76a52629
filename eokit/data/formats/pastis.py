"""PASTIS, PASTIS-R and PASTIS-HD: crops of France on Sentinel-2, Sentinel-1 and SPOT series, one reader for the three.

What the copy on disk holds decides which of the three it is; other data in their layout are not called PASTIS.
Called by `eokit prepare pastis` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.crops import PASTIS_CLASSES, VOID
from eokit.data.formats.base import Download, Findings, FormatInfo, OnError
from eokit.data.formats.footprints import Grid, locate, require_geo
from eokit.data.formats.geotiff import read_image
from eokit.data.formats.npy import read_array
from eokit.data.formats.pastis_metadata import FILE, Metadata, Patch, read_metadata
from eokit.data.formats.pastis_tree import (
    GSD,
    LABELS,
    SERIES,
    SPOT,
    Sizes,
    Tree,
    check_files,
    check_folders,
    survey,
)
from eokit.data.formats.samples import findings_of, keep_whole, limited, require_folder
from eokit.data.formats.values import store_decibel, store_reflectance
from eokit.data.preprocessing import NODATA
from eokit.data.sensors import get_sensor
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import DataError

INFO = FormatInfo(
    name="pastis",
    title="PASTIS, PASTIS-R, PASTIS-HD",
    summary="2,433 patches of 128 x 128 px at 10 m in four tiles of France, September 2018 to November 2019",
    downloads=(
        Download("PASTIS (Sentinel-2)", "https://zenodo.org/records/5012942", 29.0),
        Download("PASTIS-R (+ Sentinel-1)", "https://zenodo.org/records/5735646", 54.0),
        Download("PASTIS-HD (+ SPOT 6/7)", "https://huggingface.co/datasets/IGNF/PASTIS-HD", None),
    ),
    licence="Etalab Open Licence 2.0",
    citation=(
        "Sainte Fare Garnot and Landrieu, Panoptic Segmentation of Satellite Image Time Series with Convolutional"
        " Temporal Attention Networks, ICCV 2021; PASTIS-R: Sainte Fare Garnot, Landrieu and Chehata, Multi-modal"
        " temporal attention models for crop mapping from satellite time series, ISPRS Journal 2022; PASTIS-HD:"
        " Astruc et al., OmniSat: Self-Supervised Modality Fusion for Earth Observation, ECCV 2024"
    ),
    sensors=("sentinel-2", "sentinel-1", "spot-6"),
    classes=PASTIS_CLASSES,
    folds="1 to 5, published",
    tree=f"{FILE} DATA_S2/ [DATA_S1A/ DATA_S1D/ DATA_SPOT/] ANNOTATIONS/ [INSTANCE_ANNOTATIONS/]",
)

PATCHES = 2433
"""Patches in the published metadata of all three; a tree with any other number is data of someone else."""
OTHER = "pastis-layout"
"""The data set's name in a store where the tree is not PASTIS itself."""
UNKNOWN = f"not known: {FILE} does not say"

SPOT_DAY = date(2019, 7, 1).toordinal() - date(1970, 1, 1).toordinal()
"""The SPOT mosaics carry a year, 2019; MAESTRO (IGNF) gives them this date, and so do we."""


def find(folder: Path) -> Path | None:
    """The tree at `folder`, or the richest one (PASTIS-HD, PASTIS-R, PASTIS, any other name) right below it."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [folder / name for name in ("PASTIS-HD", "PASTIS-R", "PASTIS")]
    for candidate in (folder, *named, *below):
        if (candidate / FILE).is_file() and (candidate / "DATA_S2").is_dir():
            return candidate
    return None


def open_source(
    path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
) -> PastisSource:
    """A source of all patches of the tree at `path`, or of `limit` of them spread evenly over the folds.

    Every file is checked as far as its header tells. With "stop" any problem is a DataError that names them all; with
    "skip" patches that have one are left out and noted.
    """
    looked = _look(path, modalities, limit)
    findings = looked.findings
    kept = keep_whole(looked.patches, findings, on_error, looked.tree.root)
    spec = _spec(looked)
    if UNKNOWN in (spec.licence, spec.citation):
        findings.note(
            f"{FILE} has {len(looked.metadata.patches):,} patches, PASTIS {PATCHES:,}: taken for other data in its"
            ' layout; let the file say "title", "licence" and "citation" beside "features"'
        )
    entries = [_entry(patch, looked) for patch in kept]
    orders = {patch.id: unsorted for patch in kept if (unsorted := _orders(patch))}
    return PastisSource(spec, entries, looked.tree.root, looked.tree.spot, orders, tuple(findings.notes))


def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
    """What is wrong with the copy at `path` and what it lacks."""
    return findings_of(lambda: _look(path, modalities, None).findings)


@dataclass(frozen=True)
class PastisSource:
    """Reads patches of one tree. `orders`: per patch and modality, the permutation that puts its dates in order."""

    spec: StoreSpec
    entries: list[Entry]
    root: Path
    spot: Mapping[str, str]
    orders: Mapping[str, Mapping[str, np.ndarray]]
    notes: tuple[str, ...] = field(default=())

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, C, H, W) int16 with nodata in all bands of a pixel, or uint8 for SPOT (T = 1)."""
        path = self._path(entry, modality)
        if modality == SPOT:
            return read_image(path)[None]
        array = read_array(path)
        stored, seen = store_reflectance(array) if modality == "s2" else store_decibel(array)
        if not seen:
            raise DataError(
                f"{path}: no valid pixel in any of its {len(stored)} dates (clouds or nodata only); remove patch"
                f" {entry.id} from {FILE}, or leave it out with --on-error skip"
            )
        order = self.orders.get(entry.id, {}).get(modality)
        return stored if order is None else stored[order]

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """Semantic (H, W) uint8, parcel and instance (H, W) int32 where the copy has them."""
        return {spec.name: _read_label(self.root / LABELS[spec.name].file(entry.id), spec) for spec in self.spec.labels}

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of the series, images and labels of one patch."""
        paths = [self._path(entry, modality.name) for modality in self.spec.modalities]
        paths += [self.root / LABELS[label.name].file(entry.id) for label in self.spec.labels]
        return sum(path.stat().st_size for path in paths if path.exists())

    def _path(self, entry: Entry, modality: str) -> Path:
        return self.root / (self.spot[entry.id] if modality == SPOT else SERIES[modality].file(entry.id))


@dataclass(frozen=True)
class _Looked:
    """Everything known of a copy without reading pixels."""

    tree: Tree
    metadata: Metadata
    patches: Sequence[Patch]
    sizes: Sizes
    grids: Mapping[str, Grid]
    findings: Findings


def _look(path: Path, modalities: Sequence[str] | None, limit: int | None) -> _Looked:
    require_folder(path, FILE)
    require_geo()
    findings = Findings()
    tree = survey(find(path) or path, modalities)
    dates = {name: SERIES[name].dates for name in tree.modalities if name != SPOT}
    metadata = read_metadata(tree.root / FILE, dates, findings)
    patches = limited(metadata.patches, limit)
    check_folders(tree, modalities, metadata.dated, findings)
    sizes = check_files(tree, patches, findings)
    return _Looked(tree, metadata, patches, sizes, _grids(patches, metadata.crs, sizes, findings), findings)


def _grids(patches: Sequence[Patch], crs: str, sizes: Sizes, findings: Findings) -> dict[str, Grid]:
    grids = {patch.id: locate(patch.geometry, crs, patch.tile, sizes.pixels, GSD) for patch in patches}
    lost = [id for id, grid in grids.items() if grid.transform is None]
    if lost:
        size = " x ".join(f"{pixels * GSD:.0f}" for pixels in sizes.pixels)
        findings.note(
            f"{FILE}: {len(lost)} of {len(grids)} footprints (first: patch {lost[0]}) are not boxes of {size} m in"
            " their UTM zone: these patches get no coordinate grid"
        )
    return grids


def _entry(patch: Patch, looked: _Looked) -> Entry:
    days = {name: np.sort(days, kind="stable") for name, days in patch.days.items()}
    if SPOT in looked.tree.modalities:
        days[SPOT] = np.array([SPOT_DAY], dtype=np.int32)
    grid = looked.grids[patch.id]
    extra = {"tile": patch.tile, "parcels": patch.parcels}
    return Entry(patch.id, patch.fold, days, grid.crs, grid.transform, grid.footprint, extra)


def _orders(patch: Patch) -> dict[str, np.ndarray]:
    """Per modality whose dates are not ascending, the stable order that makes them so; equal days keep theirs."""
    return {name: np.argsort(days, kind="stable") for name, days in patch.days.items() if np.any(np.diff(days) < 0)}


def _spec(looked: _Looked) -> StoreSpec:
    tree, (size, spot_size) = looked.tree, looked.sizes
    series = [
        ModalitySpec(name, layer.sensor, layer.bands, (len(layer.bands), *size), "int16", layer.scale, NODATA, GSD)
        for name, layer in SERIES.items()
        if name in tree.modalities
    ]
    if spot_size is not None:
        bands, gsd = get_sensor("spot-6").band_names, GSD * size[0] / spot_size[0]
        series.append(ModalitySpec(SPOT, "spot-6", bands, (len(bands), *spot_size), "uint8", 1.0, None, gsd))
    known = {"semantic": (PASTIS_CLASSES, VOID)}
    labels = [LabelSpec(name, LABELS[name].dtype, size, *known.get(name, (None, None))) for name in tree.labels]
    return StoreSpec(**_origin(looked), modalities=tuple(series), labels=tuple(labels))


def _origin(looked: _Looked) -> dict[str, Any]:
    """What the data are called, whose they are, and whether they were made up: PASTIS itself, or what the file says."""
    metadata, variant = looked.metadata, _variant(looked.tree)
    if is_published(metadata):
        published = {"title": variant, "licence": INFO.licence, "citation": INFO.citation}
        return {"dataset": INFO.name, "synthetic": False} | published
    kind = "Synthetic data" if metadata.synthetic else "Other data"
    unknown = {"title": f"{kind} in the layout of {variant}", "licence": UNKNOWN, "citation": UNKNOWN}
    return {"dataset": OTHER, "synthetic": metadata.synthetic} | unknown | dict(metadata.told)


def is_published(metadata: Metadata) -> bool:
    """Whether a tree is PASTIS itself: it has as many patches, and does not say that it is anything else."""
    return len(metadata.patches) == PATCHES and not metadata.synthetic and not metadata.told


def _variant(tree: Tree) -> str:
    if SPOT in tree.modalities:
        return "PASTIS-HD"
    return "PASTIS-R" if {"s1-asc", "s1-des"} & set(tree.modalities) else "PASTIS"


def _read_label(path: Path, spec: LabelSpec) -> np.ndarray:
    array = read_array(path)
    array = array[0] if array.ndim == 3 else array
    low, high = array.min(), array.max()
    limit = len(spec.classes) - 1 if spec.classes else np.iinfo(spec.dtype).max
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise DataError(f"{path}: holds fractions or NaN, expected whole numbers (labels)")
    if not (low >= 0 and high <= limit):
        what = "class id" if spec.classes else "id"
        found = high if low >= 0 else low
        raise DataError(f"{path}: {what} {found}, expected 0 to {limit}; is this another release of the labels?")
    return array.astype(spec.dtype)
