"""Statistics of a store, exact: how often every stored value occurs, by band and fold, summed while it is written.

Stored values have at most 16 bits, so a histogram of 65,536 bins loses nothing: means, standard deviations and
quantiles follow from it, and integer counts add up to the same whatever the order. Called by the writer; training
asks `make_preprocessing` for the normalisation of its folds.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.spec import ModalitySpec
from eokit.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from eokit.data.store import Store

QUANTILES = (0.01, 0.02, 0.05, 0.25, 0.5, 0.75, 0.95, 0.98, 0.99)

STD_FLOOR = 1e-3
"""A band with a standard deviation below this (physical units) is divided by 1 instead: a constant band becomes 0."""


class Histogram:
    """Counts of every stored value per fold. counts: fold -> (C, bins) int64, by the value's bits read as unsigned."""

    def __init__(self, bands: int, dtype: str, nodata: int | None) -> None:
        self._info = np.iinfo(dtype)
        self._bins = 1 << self._info.bits
        self._bands = bands
        self._nodata = None if nodata is None else nodata % self._bins
        self.counts: dict[int, np.ndarray] = {}

    def add(self, fold: int, values: np.ndarray) -> None:
        """Count `values` (T, C, H, W); ArgumentError where nodata is not set in all bands of a pixel alike."""
        unsigned = values.view(f"u{values.itemsize}")
        found = [np.bincount(unsigned[:, band].ravel()) for band in range(self._bands)]
        if self._nodata is not None:
            missing = [int(counts[self._nodata]) if len(counts) > self._nodata else 0 for counts in found]
            together = np.count_nonzero((unsigned == self._nodata).all(1)) if any(missing) else 0
            if any(count != together for count in missing):
                raise ArgumentError(
                    f"nodata is set {missing} times by band, {together} times in all bands at once;"
                    " expected in all bands of a pixel or none"
                )
        sums = self._of(fold)
        for band, counts in enumerate(found):
            sums[band, : len(counts)] += counts

    def summary(self, spec: ModalitySpec) -> dict[str, Any]:
        """What stats.json says of one modality: by fold, and of all folds together."""
        folds = {str(fold): self._describe(self.counts[fold], spec) for fold in sorted(self.counts)}
        every = self._describe(sum(self.counts.values(), np.zeros((self._bands, self._bins), np.int64)), spec)
        return {"bands": list(spec.bands), "folds": folds, "all": every}

    def to_bytes(self) -> bytes:
        """An npz of the bins that are used."""
        arrays: dict[str, Any] = {}
        for fold, counts in self.counts.items():
            used = np.flatnonzero(counts.any(0))
            arrays |= {f"{fold}/bins": used.astype(np.uint16), f"{fold}/counts": counts[:, used].astype(np.uint32)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def add_bytes(self, data: bytes) -> None:
        """Add what `to_bytes` made; the order of adding changes nothing."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for fold in {int(name.partition("/")[0]) for name in arrays.files}:
                self._of(fold)[:, arrays[f"{fold}/bins"]] += arrays[f"{fold}/counts"]

    def _of(self, fold: int) -> np.ndarray:
        return self.counts.setdefault(fold, np.zeros((self._bands, self._bins), np.int64))

    def _describe(self, counts: np.ndarray, spec: ModalitySpec) -> dict[str, Any]:
        """Facts of one fold, in physical units; a quantile is the smallest value that such a share does not exceed."""
        missing = 0
        if self._nodata is not None:
            missing = int(counts[0, self._nodata])
            counts = counts.copy()
            counts[:, self._nodata] = 0
        count = int(counts[0].sum())
        facts: dict[str, Any] = {"count": count, "nodata_share": missing / max(count + missing, 1)}
        if not count:
            return facts
        # Two's complement: the upper half of the unsigned values are the negative ones, the lowest first.
        counts = np.roll(counts, -self._info.min, axis=1)
        values = np.arange(self._info.min, self._info.max + 1, dtype=np.int64)
        mean = counts @ values / count
        variance = np.array([counts[c] @ (values - mean[c]) ** 2 for c in range(self._bands)]) / count
        below = counts.cumsum(1)
        at = {q: [values[np.searchsorted(row, q * count)] for row in below] for q in QUANTILES}
        present = [values[row > 0] for row in counts]
        return facts | {
            "mean": (mean * spec.scale).tolist(),
            "std": (np.sqrt(variance) * spec.scale).tolist(),
            "min": [float(row[0] * spec.scale) for row in present],
            "max": [float(row[-1] * spec.scale) for row in present],
            "quantiles": {str(q): [float(value * spec.scale) for value in row] for q, row in at.items()},
        }


def make_preprocessing(store: Store, modalities: Sequence[str], folds: Sequence[int] | None = None) -> Preprocessing:
    """How `modalities` are normalised: mean and std over the valid pixels of `folds` (all folds when None).

    DataError when a modality is not there or has no valid pixel in these folds.
    """
    inputs = {}
    for name in modalities:
        if name not in store.modalities:
            raise DataError(f"{store.path}: no modality {name!r}; it has {', '.join(store.modalities)}")
        spec = store.modalities[name]
        mean, std = _normal(_pool(store, name, folds))
        inputs[name] = Input(spec.sensor, spec.bands, mean, std, spec.scale, spec.nodata, spec.gsd)
    return Preprocessing(inputs)


def common_preprocessing(
    stores: Sequence[Store], modalities: Sequence[Sequence[str]], folds: Sequence[Sequence[int]]
) -> list[Preprocessing]:
    """How each store's modalities are normalised when they are trained on together: alike where they have the same.

    modalities, folds: of each store. A modality of the same name and bands has one mean and std in all stores, those of
    all valid pixels together. DataError as for `make_preprocessing`.
    """
    own = [make_preprocessing(*one) for one in zip(stores, modalities, folds, strict=True)]
    moments: dict[tuple[str, tuple[str, ...]], list[Moments]] = {}
    for store, names, chosen in zip(stores, modalities, folds, strict=True):
        for name in names:
            moments.setdefault((name, store.modalities[name].bands), []).append(_pool(store, name, chosen))
    together = {key: _normal(_together(found)) for key, found in moments.items()}

    def alike(name: str, one: Input) -> Input:
        mean, std = together[name, one.bands]
        return replace(one, mean=mean, std=std)

    return [Preprocessing({name: alike(name, one) for name, one in each.inputs.items()}) for each in own]


Moments = tuple[float, np.ndarray, np.ndarray]
"""Count of values, their mean and their standard deviation, both (C,)."""


def _normal(moments: Moments) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std as an `Input` has them; a band that never changes is only centred."""
    _, mean, std = moments
    return tuple(mean.tolist()), tuple(np.where(std < STD_FLOOR, 1.0, std).tolist())


def _together(parts: Sequence[Moments]) -> Moments:
    """The moments of all values from those of each part."""
    counts = np.array([count for count, _, _ in parts], np.float64)
    weights = counts / counts.sum()
    means, variances = np.array([mean for _, mean, _ in parts]), np.array([std for _, _, std in parts]) ** 2
    mean = weights @ means
    return counts.sum(), mean, np.sqrt(weights @ (variances + (means - mean) ** 2))


def _pool(store: Store, modality: str, folds: Sequence[int] | None) -> Moments:
    """The moments of several folds from those of each."""
    by_fold = store.statistics["modalities"][modality]["folds"]
    chosen = [by_fold[str(fold)] for fold in (by_fold if folds is None else folds) if str(fold) in by_fold]
    chosen = [facts for facts in chosen if facts["count"]]
    if not chosen:
        there = ", ".join(by_fold) or "none"
        raise DataError(f"{store.path}: {modality} has no valid pixel in folds {folds}; its folds are {there}")
    return _together([(facts["count"], np.array(facts["mean"]), np.array(facts["std"])) for facts in chosen])
