"""The samples of a store as scenes: one area per coordinate system, each sample where it lies.

Called by `eokit.mapping.predict`. Samples may overlap and leave gaps; a sample off the common pixel grid is moved to
the nearest pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from eokit.data.preprocessing import Preprocessing
from eokit.data.store import Store
from eokit.errors import DataError
from eokit.mapping.scene import Area, Placed, ReadTruth, Window
from eokit.tasks.inputs import match_inputs

LARGEST = 2_000_000_000
"""Pixels of the largest mosaic; a UTM zone of France at 10 m has 1e10, which no one wants as one file by accident."""


class PatchScene:
    """One sample of a store; see `eokit.mapping.scene.Scene`."""

    def __init__(self, store: Store, sample: int, preprocessing: Preprocessing) -> None:
        self._store, self._sample = store, sample
        self.name, self.preprocessing = store.ids[sample], preprocessing
        modalities = list(preprocessing.inputs)
        self.height, self.width = store.modalities[modalities[0]].shape[1:]
        self.days = {modality: store.days(modality, sample) for modality in modalities}

    def read(self, modality: str, window: Window, dates: np.ndarray | None = None) -> np.ndarray:
        """(T, C, h, w) in the stored dtype."""
        rows, columns = (window.top, window.top + window.height), (window.left, window.left + window.width)
        return self._store.read(modality, self._sample, dates, (*rows, *columns))

    def read_truth(self, label: str, window: Window) -> np.ndarray:
        """(h, w) ids of a label layer."""
        rows, columns = (window.top, window.top + window.height), (window.left, window.left + window.width)
        return self._store.read_label(label, self._sample, (*rows, *columns))


@dataclass(frozen=True)
class Shown:
    """What a map shows: the label layer that the model learned, and the names of its classes by id."""

    label: str
    classes: tuple[str, ...]

    def truth(self, scene: PatchScene, store: Store) -> ReadTruth | None:
        """The reader of the labels of `scene`; None where the store has no such layer on the scene's grid."""
        spec = store.labels.get(self.label)
        if spec is None or spec.classes != self.classes or spec.shape != (scene.height, scene.width):
            return None
        return partial(scene.read_truth, self.label)


def open_store(
    path: Path,
    preprocessing: Preprocessing,
    folds: Sequence[int] | None = None,
    limit: int | None = None,
    shown: Shown | None = None,
) -> list[Area]:
    """One area per coordinate system of the chosen samples, read in the scale and nodata of the store.

    shown: with the labels of the samples where they are of the same layer and classes.
    DataError: samples without a place on a grid. WeightsError: modalities or bands that are not the model's.
    """
    store = Store.open(path)
    preprocessing, notes = match_inputs(preprocessing, store, "the model")
    if unused := [name for name in store.modalities if name not in preprocessing.inputs]:
        notes.append(f"{', '.join(unused)} of the store is not used: the model does not take it")
    preprocessing = _of_one_grid(store, preprocessing, notes)
    chosen = store.select(folds)
    count = len(chosen) if limit is None else limit
    samples, left_out = chosen[:count].tolist(), chosen[count:].tolist()
    groups: dict[str, list[int]] = {}
    for sample in samples:
        where = store.where(sample)
        if where.crs is None or where.transform is None:
            raise DataError(
                f"{path}: sample {where.id} has no place on a pixel grid (crs and transform are missing), so it cannot"
                " be drawn on a map; prepare the store from data with footprints, or predict from GeoTIFFs"
            )
        groups.setdefault(where.crs, []).append(sample)
    short = {store.where(sample).crs for sample in left_out}
    areas = [_mosaic(store, crs, row, preprocessing, shown) for crs, row in sorted(groups.items())]
    return [replace(area, notes=tuple(notes), limited=area.crs in short) for area in areas]


def _of_one_grid(store: Store, preprocessing: Preprocessing, notes: list[str]) -> Preprocessing:
    """The inputs on the grid of the first one, which is that of the map; a note names the others."""
    first, *rest = preprocessing.inputs
    grids = {name: store.modalities[name].shape[1:] for name in preprocessing.inputs}
    others = [name for name in rest if grids[name] != grids[first]]
    if not others:
        return preprocessing
    notes.append(f"{', '.join(others)}: on another grid than {first}, the map is drawn without")
    return Preprocessing({name: one for name, one in preprocessing.inputs.items() if name not in others})


def _mosaic(store: Store, crs: str, samples: Sequence[int], preprocessing: Preprocessing, shown: Shown | None) -> Area:
    grids = np.array([store.where(sample).transform for sample in samples], np.float64)[:, :6]
    a, b, _, d, e, _ = grids[0]
    for sample, grid in zip(samples, grids, strict=True):
        if not np.allclose(grid[[0, 1, 3, 4]], (a, b, d, e), rtol=1e-6) or abs(b) + abs(d) > 1e-9 * abs(a) or e > 0:
            raise DataError(
                f"{store.path}: sample {store.ids[sample]} has pixels {tuple(grid[[0, 1, 3, 4]])}, expected the"
                f" north-up {a:g} x {e:g} of sample {store.ids[samples[0]]}; map them apart (--folds, --limit)"
            )
    height, width = store.modalities[next(iter(preprocessing.inputs))].shape[1:]
    left, top = grids[:, 2].min(), grids[:, 5].max()
    columns = np.rint((grids[:, 2] - left) / a).astype(int)
    rows = np.rint((grids[:, 5] - top) / e).astype(int)
    size = int(rows.max()) + height, int(columns.max()) + width
    if size[0] * size[1] > LARGEST:
        raise DataError(
            f"{store.path}: the samples in {crs} span {size[0]:,} x {size[1]:,} pixels, at most {LARGEST:,} are drawn"
            " as one map; choose fewer (--folds, --limit)"
        )
    patches = [PatchScene(store, sample, preprocessing) for sample in samples]
    scenes = tuple(
        Placed(patch, int(row), int(column), shown.truth(patch, store) if shown else None)
        for patch, row, column in zip(patches, rows, columns, strict=True)
    )
    ids = [store.ids[sample] for sample in samples]
    identity = {"store": store.dataset, "content": store_digest(store), "samples": ids}
    name = str(store.attributes["title"])
    return Area(crs, (a, 0.0, left, 0.0, e, top), *size, scenes, identity, store.synthetic, name=name)


def store_digest(store: Store) -> str:
    """Of the store's layout, index and statistics, which change with its pixels; reading those would take minutes."""
    digest = hashlib.sha256()
    for file in (store.path / name for name in ("zarr.json", "index.parquet", "stats.json")):
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror}); prepare the store again") from None
    return digest.hexdigest()[:16]
