"""FLAIR-2: land cover of France on aerial images of 0.2 m, with a year of Sentinel-2 around each of them.

Images and labels of 512 px are cut to their inner 500 px, 100 m, the ground of 10 x 10 px of the area's Sentinel-2
series around the centre of the image. The two grids are not aligned: they agree to within a pixel of Sentinel-2.
Called by `eokit prepare flair` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from eokit.data.formats.about import About, Option, read_about
from eokit.data.formats.base import Download, Findings, FormatInfo, OnError
from eokit.data.formats.dates import in_order
from eokit.data.formats.flair_tree import (
    CENTROIDS,
    EDGE,
    GSD,
    PARTS,
    PUBLISHED_EDGE,
    SERIES_EDGE,
    SERIES_GSD,
    Patch,
    list_patches,
    masks_of,
    read_patch,
    read_tables,
)
from eokit.data.formats.footprints import require_geo
from eokit.data.formats.geotiff import read_image
from eokit.data.formats.samples import choose_modalities, findings_of, keep_whole, limited, require_folder
from eokit.data.formats.values import store_reflectance
from eokit.data.preprocessing import NODATA
from eokit.data.sensors import get_sensor
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import DataError

CLASSES = (
    "building",
    "pervious surface",
    "impervious surface",
    "bare soil",
    "water",
    "coniferous",
    "deciduous",
    "brushwood",
    "vineyard",
    "herbaceous vegetation",
    "agricultural land",
    "plowed land",
    "other",
)
"""The 13 classes of the FLAIR baseline: published values 1 to 12, and all above them as one."""
OTHER = 12
"""The class that the baseline gives no weight: ignored in scores."""
PUBLISHED = 19
"""The highest value of a published label."""

INFO = FormatInfo(
    name="flair",
    title="FLAIR-2",
    summary="77,762 aerial images of 102.4 m in 50 departments of France, 2018 to 2021, with a year of Sentinel-2",
    downloads=(Download("FLAIR-1 and FLAIR-2", "https://huggingface.co/datasets/IGNF/FLAIR", None),),
    licence="Etalab Open Licence 2.0",
    citation=(
        "Garioud et al., FLAIR: a Country-Scale Land Cover Semantic Segmentation Dataset From Multi-Source Optical"
        " Imagery, NeurIPS Datasets and Benchmarks 2023"
    ),
    sensors=("aerial-flair", "sentinel-2"),
    classes=CLASSES,
    folds="1 train, 2 validation (domains of splits.json, if it is there), 3 test, published",
    tree=f"flair_{{aerial,labels,sen}}_train/ [flair_2_{{aerial,labels,sen}}_test/] {CENTROIDS} [splits.json]",
)

OPTIONS = {
    "cloudy_dates": Option(
        "dates of which half is cloud or snow: leave them out as the baseline does", "drop", ("drop", "keep")
    ),
    "cloud_nodata": Option("percent of cloud or snow from which Sentinel-2 pixels are nodata", None, example=60),
}

AERIAL = "aerial-flair"
SHARE, PROBABILITY = 0.5, 60
"""A date is dropped where pixels of this probability (percent) of snow and those of cloud cover this share together.

As the filter of the FLAIR-2 baseline, which looks at 40 x 40 px around the image; here it looks at the 10 x 10 stored.
"""


def find(folder: Path) -> Path | None:
    """The tree at `folder`, or right below it."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    for one in (folder, *below):
        if any((one / part.aerial).is_dir() for part in PARTS):
            return one
    return None


def open_source(
    path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
) -> FlairSource:
    """A source of the patches of the tree at `path`, or of `limit` of them spread evenly over the splits."""
    looked = _look(path, modalities, limit)
    findings = looked.findings
    kept = [looked.patches[one.id] for one in keep_whole(looked.listed, findings, on_error, looked.root)]
    wanted = "s2" in looked.modalities
    dates = {patch.id: _dates(patch, looked.about) if wanted else np.zeros(0, np.int64) for patch in kept}
    without = [id for id, found in dates.items() if wanted and not len(found)]
    if without:
        findings.note(f"{len(without)} patches (first: {without[0]}) have no date that is not half cloud or snow")
    entries = [_entry(patch, dates[patch.id], looked.modalities) for patch in kept]
    patches = {patch.id: patch for patch in kept}
    return FlairSource(_spec(looked), entries, patches, dates, looked.about, tuple(findings.notes))


def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
    """What is wrong with the copy at `path` and what it lacks."""
    return findings_of(lambda: _look(path, modalities, None).findings)


@dataclass(frozen=True)
class FlairSource:
    """Reads patches of one tree. dates: of each patch, the dates of its series that are kept, by ascending day."""

    spec: StoreSpec
    entries: list[Entry]
    patches: Mapping[str, Patch]
    dates: Mapping[str, np.ndarray]
    about: About
    notes: tuple[str, ...] = field(default=())

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, 10, 10, 10) int16 with nodata in all bands of a pixel; (1, 5, 500, 500) uint8 of the aerial image."""
        patch = self.patches[entry.id]
        if modality == AERIAL:
            return _inner(read_image(patch.image))[None]
        dates = self.dates[entry.id]
        stored, _ = store_reflectance(_window(patch.series.path, patch)[dates])
        limit = self.about.options["cloud_nodata"]
        if limit is not None:
            hidden = (_window(masks_of(patch.series.path), patch)[dates] >= limit).any(axis=1)
            np.copyto(stored, NODATA, where=hidden[:, None])
        return stored

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """Semantic (500, 500) uint8, and multilabel (13,) uint8: which classes occur in it."""
        path = self.patches[entry.id].label
        published = _inner(read_image(path))[0]
        low, high = int(published.min()), int(published.max())
        if low < 1 or high > PUBLISHED:
            raise DataError(f"{path}: class id {low if low < 1 else high}, expected 1 to {PUBLISHED}")
        semantic = np.minimum(published, len(CLASSES)) - np.uint8(1)
        multilabel = np.bincount(semantic.ravel(), minlength=len(CLASSES)) > 0
        return {"semantic": semantic, "multilabel": multilabel.astype(np.uint8)}

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of the image, its label and its part of the series."""
        patch = self.patches[entry.id]
        files = [patch.label] + [patch.image] * any(one.name == AERIAL for one in self.spec.modalities)
        return sum(path.stat().st_size for path in files if path.exists()) + 2000 * len(self.dates[entry.id])


def _dates(patch: Patch, about: About) -> np.ndarray:
    """Which dates of the series of a patch are kept, by ascending day."""
    _, order = in_order(patch.series.days)
    order = np.arange(len(patch.series.days)) if order is None else order
    if about.options["cloudy_dates"] == "keep":
        return order
    masks = _window(masks_of(patch.series.path), patch)
    clear = (masks >= PROBABILITY).mean(axis=(2, 3)).sum(axis=1) < SHARE
    return order[clear[order]]


def _window(path: Path, patch: Patch) -> np.ndarray:
    """(T, C, 10, 10): the part of a super-patch that belongs to a patch."""
    row, column = patch.series.corner
    return np.asarray(_open_series(path)[:, :, row : row + SERIES_EDGE, column : column + SERIES_EDGE])


@lru_cache(maxsize=4)
def _open_series(path: Path) -> np.ndarray:
    """A super-patch, read as it is needed: the images of an area follow one another."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an npy file ({error}); copy or download it again") from None


@dataclass(frozen=True)
class _Looked:
    root: Path
    modalities: tuple[str, ...]
    about: About
    listed: Sequence[Patch]
    patches: Mapping[str, Patch]
    findings: Findings


def _look(path: Path, modalities: Sequence[str] | None, limit: int | None) -> _Looked:
    require_folder(path, PARTS[0].aerial)
    require_geo()
    _open_series.cache_clear()
    root, findings = find(path) or path, Findings()
    found = [AERIAL] + ["s2"] * any((root / part.sentinel).is_dir() for part in PARTS)
    chosen = choose_modalities(found, modalities, (AERIAL, "s2"), INFO.title, root)
    if modalities is None and "s2" not in found:
        findings.note(f"no folder {PARTS[0].sentinel}: the store has no Sentinel-2")
    listed, series = limited(list_patches(root, findings), limit), "s2" in chosen
    tables = read_tables(root, series, findings)
    read = [read_patch(one, tables, series, findings) for one in listed]
    patches = {patch.id: patch for patch in read if patch is not None}
    return _Looked(root, chosen, read_about(root, OPTIONS), list(patches.values()), patches, findings)


def _entry(patch: Patch, dates: np.ndarray, modalities: Sequence[str]) -> Entry:
    days = {AERIAL: np.array([patch.day], np.int32), "s2": patch.series.days[dates]}
    grid, transform = patch.grid, patch.grid.transform
    if transform is not None and AERIAL not in modalities:
        a, _, c, _, e, f = transform
        transform = (a * SERIES_GSD / GSD, 0.0, c, 0.0, e * SERIES_GSD / GSD, f)
    extra = {"domain": patch.domain}
    return Entry(
        patch.id, patch.fold, {name: days[name] for name in modalities}, grid.crs, transform, grid.footprint, extra
    )


def _spec(looked: _Looked) -> StoreSpec:
    aerial, bands = get_sensor(AERIAL).band_names, get_sensor("sentinel-2").band_sets[10]
    specs = {
        AERIAL: ModalitySpec(AERIAL, AERIAL, aerial, (len(aerial), EDGE, EDGE), "uint8", nodata=None, gsd=GSD),
        "s2": ModalitySpec("s2", "sentinel-2", bands, (len(bands), SERIES_EDGE, SERIES_EDGE), gsd=SERIES_GSD),
    }
    labels = (
        LabelSpec("semantic", "uint8", (EDGE, EDGE), CLASSES, OTHER),
        LabelSpec("multilabel", "uint8", (len(CLASSES),), CLASSES),
    )
    series = tuple(specs[name] for name in looked.modalities)
    return StoreSpec(**looked.about.origin(INFO), modalities=series, labels=labels)


def _inner(image: np.ndarray) -> np.ndarray:
    """The middle 500 x 500 px of (C, 512, 512)."""
    edge = (PUBLISHED_EDGE - EDGE) // 2
    return image[:, edge : edge + EDGE, edge : edge + EDGE]
