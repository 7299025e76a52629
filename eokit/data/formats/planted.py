"""PLANTED: tree species of planted forests of the world, five sensors over patches of 120 m.

The S1 series keeps VV and VH of the three published channels (the third is the angle of incidence) and adds their
difference in dB; ALOS keeps HH and HV likewise. MODIS is the one pixel of 250 m around the patch. Steps without a
timestamp are left out, masked pixels are nodata. Called by `eokit prepare planted` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.formats.about import About, Option, read_about
from eokit.data.formats.base import Download, Findings, FormatInfo, OnError
from eokit.data.formats.planted_species import SPECIES
from eokit.data.formats.planted_tree import (
    FOLDS,
    LABELS,
    LAYERS,
    SHARDS,
    Patch,
    Place,
    list_patches,
    modalities_of,
    read_patch,
)
from eokit.data.formats.samples import choose_modalities, findings_of, keep_whole, limited, require_folder
from eokit.data.formats.values import DB_STEP, as_decibel, store_decibel, store_reflectance, with_ratio
from eokit.data.preprocessing import NODATA
from eokit.data.sensors import get_sensor
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import DataError

INFO = FormatInfo(
    name="planted",
    title="PLANTED",
    summary="1,348,219 patches of 120 x 120 m of planted forest in 41 countries, five sensors, 40 species",
    downloads=(Download("subset species 1.2.0", "gs://forest_typology/planted-public", 155.0),),
    licence="CC-BY-4.0",
    citation=(
        "Pazos-Outon et al., Planted: a dataset for planted forest identification from multi-satellite time series,"
        " IGARSS 2024"
    ),
    sensors=("sentinel-2", "sentinel-1", "landsat-7-dn", "alos-2", "modis"),
    classes=SPECIES,
    folds="1 train, 2 validation, 3 test, published",
    tree=f"{{train,validation,test}}/0000_d5000.npz, or {{train,val,test}}/{LABELS} with <id>/<id>_s2.npz ...",
)

OPTIONS = {
    "radar": Option("the unit of Sentinel-1, inferred from published means", "dB", ("dB", "linear")),
    "label_key": Option("the array of a shard that holds the species", "species", example="species"),
}

EDGE = 120.0
"""Metres along an edge of a patch."""
ALOS_STEP = 1 / 64
"""The published ALOS values are near 90, beyond what int16 holds at 1/256."""
DN_NODATA = 0
"""Digital number of Landsat pixels without a value, in all bands here."""

SPECS: Mapping[str, tuple[str, tuple[str, ...], str, float, int]] = {
    "s2": ("sentinel-2", get_sensor("sentinel-2").band_sets[10], "int16", 1.0, NODATA),
    "s1": ("sentinel-1", get_sensor("sentinel-1").band_sets[3], "int16", DB_STEP, NODATA),
    "l7": ("landsat-7-dn", get_sensor("landsat-7-dn").band_names, "uint16", 1.0, DN_NODATA),
    "alos": ("alos-2", get_sensor("alos-2").band_sets[3], "int16", ALOS_STEP, NODATA),
    "modis": ("modis", get_sensor("modis").band_names, "int16", 1.0, NODATA),
}
"""Modality -> sensor, bands, dtype, scale, nodata of the store."""


def find(folder: Path) -> Path | None:
    """The tree at `folder`, or right below it."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for one in (folder, *below):
        for split in FOLDS:
            if (one / split / LABELS).is_file() or any((one / split).glob(SHARDS)):
                return one
    return None


def open_source(
    path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
) -> PlantedSource:
    """A source of the patches of the tree at `path`, or of `limit` of them spread evenly over the splits."""
    looked = _look(path, modalities, limit)
    kept = keep_whole(looked.patches, looked.findings, on_error, looked.root)
    entries = [_entry(patch) for patch in kept]
    places = {patch.id: patch.place for patch in kept}
    steps = {patch.id: patch.kept for patch in kept}
    labels = {patch.id: patch.label for patch in kept}
    return PlantedSource(_spec(looked), entries, places, steps, labels, looked.about, tuple(looked.findings.notes))


def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
    """What is wrong with the copy at `path` and what it lacks."""
    return findings_of(lambda: _look(path, modalities, None).findings)


@dataclass(frozen=True)
class PlantedSource:
    """Reads patches of one tree. steps: by patch and modality, the steps that have a date, in the order of the days."""

    spec: StoreSpec
    entries: list[Entry]
    places: Mapping[str, Place]
    steps: Mapping[str, Mapping[str, np.ndarray]]
    labels: Mapping[str, int]
    about: About
    notes: tuple[str, ...] = field(default=())

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, C, H, W) in the stored dtype with nodata in all bands of a masked pixel."""
        place, steps = self.places[entry.id], self.steps[entry.id][modality]
        values = place.read(modality)[steps][..., : LAYERS[modality].used]
        mask = place.read(modality, "_mask")[steps]
        images = np.moveaxis(values, -1, 1).astype(np.float32)
        hidden = mask == 0 if mask.ndim == 3 else (mask == 0).any(axis=-1)
        images[np.broadcast_to(hidden[:, None], images.shape)] = np.nan
        if modality in ("s1", "alos"):
            return self._radar(images, modality, place)
        return _store_numbers(images) if modality == "l7" else store_reflectance(images)[0]

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """The species of the patch: class () uint8."""
        return {"class": np.array(self.labels[entry.id], np.uint8)}

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of the values of one patch, before compression: a shard holds many."""
        return sum(len(entry.days[one.name]) * int(np.prod(one.shape)) * 4 for one in self.spec.modalities)

    def _radar(self, pair: np.ndarray, modality: str, place: Place) -> np.ndarray:
        if modality == "alos":
            return store_decibel(with_ratio(pair), ALOS_STEP)[0]
        decibels = as_decibel(pair, self.about.options["radar"], place.file(modality, ""))
        return store_decibel(with_ratio(decibels))[0]


def _store_numbers(images: np.ndarray) -> np.ndarray:
    """Digital numbers (T, C, H, W) as uint16, 0 in all bands where a band is NaN or has none."""
    bad = ~np.asarray((images > DN_NODATA).all(axis=1, keepdims=True))
    kept = np.clip(np.where(bad, 1, images), 1, np.iinfo(np.uint16).max)
    return np.where(bad, DN_NODATA, np.rint(kept)).astype(np.uint16)


@dataclass(frozen=True)
class _Looked:
    root: Path
    modalities: tuple[str, ...]
    about: About
    patches: list[Patch]
    findings: Findings


def _look(path: Path, modalities: Sequence[str] | None, limit: int | None) -> _Looked:
    require_folder(path, "train/")
    root, findings = find(path) or path, Findings()
    about = read_about(root, OPTIONS)
    listed = limited(list_patches(root, about.options["label_key"], findings), limit)
    found = modalities_of(listed)
    chosen = choose_modalities(found, modalities, tuple(LAYERS), INFO.title, root)
    missing = [name for name in LAYERS if name not in found]
    if modalities is None and missing:
        findings.note(f"no arrays of {', '.join(missing)}: the store goes without")
    broken = findings.patches
    patches = [read_patch(one, chosen, Findings() if one.id in broken else findings) for one in listed]
    if not chosen and not broken:
        raise DataError(f"{root}: no arrays of {', '.join(LAYERS)} in its first patch, {listed[0].place.path}")
    return _Looked(root, chosen, about, patches, findings)


def _entry(patch: Patch) -> Entry:
    return Entry(patch.id, patch.fold, patch.days, footprint=_point(patch.lonlat))


def _point(lonlat: tuple[float, float] | None) -> Any:
    if lonlat is None:
        return None
    import shapely

    return shapely.Point(*lonlat)


def _gsd(name: str) -> float:
    """Metres a pixel: the share of the patch, but that of the sensor where one pixel is larger than the patch."""
    return get_sensor("modis").gsd if name == "modis" else EDGE / LAYERS[name].edge


def _spec(looked: _Looked) -> StoreSpec:
    series = []
    for name in looked.modalities:
        sensor, bands, dtype, scale, nodata = SPECS[name]
        edge = LAYERS[name].edge
        series.append(ModalitySpec(name, sensor, bands, (len(bands), edge, edge), dtype, scale, nodata, _gsd(name)))
    labels = (LabelSpec("class", "uint8", (), SPECIES),)
    return StoreSpec(**looked.about.origin(INFO), modalities=tuple(series), labels=labels)
