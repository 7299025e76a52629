"""Which patches the student of a JEPA does not see: whole parcels, the same ones on every date.

`MaskTokens` is a transform of the data set; put it after the ones that move pixels (crop, flips).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from eokit.data.sample import Sample
from eokit.errors import ArgumentError
from eokit.nn.patches import patch_grid

BLOCKS = 4
BLOCK_SHARE = (0.15, 0.20)
BLOCK_ASPECT = (0.75, 1.5)
"""Number, share of the tokens and aspect ratio of the blocks of I-JEPA (configs/in1k_vith14_ep300.yaml)."""


@dataclass(frozen=True)
class MaskTokens:
    """Adds targets["masked"] (h, w) bool: the tokens to hide and predict, on all dates.

    Parcels of targets["parcel"] (H, W; 0 = none) are chosen at random until `ratio` of the cropland tokens is hidden; a
    token is hidden, and is cropland, when at least half of its pixels lie in chosen, or any, parcels. Where no parcel
    can be used (none there, or each too small for a token or too large to hide), blocks as I-JEPA's are hidden.
    At least one token is hidden, and at least `min_visible` (half of a small grid) are not.
    """

    patch_size: int
    ratio: tuple[float, float] = (0.4, 0.6)
    min_visible: int = 10

    def __post_init__(self) -> None:
        low, high = self.ratio
        if not 0 < low <= high < 1:
            raise ArgumentError(f"ratio {self.ratio} must be two increasing shares between 0 and 1, such as (0.4, 0.6)")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with the target `masked` added."""
        coverage, grid = self._coverage(sample)
        masked = self._parcels(coverage, rng) if self._usable(coverage).any() else self._blocks(grid, rng)
        targets = sample.targets | {"masked": torch.from_numpy(masked.reshape(grid))}
        return replace(sample, targets=targets)

    def describe(self, sample: Sample) -> Literal["parcels", "blocks"]:
        """What the masks of this sample are made of, so that a run can say it."""
        return "parcels" if self._usable(self._coverage(sample)[0]).any() else "blocks"

    def _coverage(self, sample: Sample) -> tuple[np.ndarray, tuple[int, int]]:
        """Pixels of each token in each parcel: (N, parcels) int, and the grid (h, w)."""
        height, width = next(iter(sample.series.values())).values.shape[-2:]
        h, w = patch_grid(height, width, self.patch_size)
        parcel = sample.targets.get("parcel")
        if parcel is None:
            return np.zeros((h * w, 0), np.int64), (h, w)
        if tuple(parcel.shape) != (height, width):
            raise ArgumentError(f"target parcel has shape {tuple(parcel.shape)}, the images {(height, width)}")
        names, index = np.unique(parcel.numpy(), return_inverse=True)
        rows, columns = np.indices((height, width)) // self.patch_size
        cell = (rows * w + columns) * len(names) + index.reshape(height, width)
        counts = np.bincount(cell.ravel(), minlength=h * w * len(names)).reshape(h * w, len(names))
        return counts[:, names != 0], (h, w)

    def _hidden(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (N, ...) of tokens in chosen parcels -> whether the tokens are hidden, same shape."""
        return 2 * pixels >= self.patch_size**2

    def _most(self, tokens: int, cropland: int) -> int:
        """The largest number of tokens that may be hidden."""
        visible = min(self.min_visible, tokens // 2)
        return min(max(1, int(self.ratio[1] * cropland)), tokens - visible)

    def _usable(self, coverage: np.ndarray) -> np.ndarray:
        """(parcels,) bool: a parcel that alone hides at least one token, and not too many."""
        alone = self._hidden(coverage).sum(0)
        cropland = int(self._hidden(coverage.sum(1)).sum())
        return (alone >= 1) & (alone <= self._most(len(coverage), cropland))

    def _parcels(self, coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(N,) bool. Parcels in random order, leaving out each that would hide too much, until enough is hidden.

        A usable one comes first, so that something is hidden whatever the others are like.
        """
        cropland = int(self._hidden(coverage.sum(1)).sum())
        enough = rng.uniform(*self.ratio) * cropland
        most = self._most(len(coverage), cropland)
        chosen = np.zeros(len(coverage), np.int64)
        order = rng.permutation(coverage.shape[1])
        first = order[self._usable(coverage)[order]][:1]
        for parcel in [*first, *order[order != first]]:
            trial = chosen + coverage[:, parcel]
            if self._hidden(trial).sum() > most:
                continue
            chosen = trial
            if self._hidden(chosen).sum() >= enough:
                break
        return self._hidden(chosen)

    def _blocks(self, grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(h, w) bool: the union of up to four blocks, as far as enough tokens stay visible."""
        h, w = grid
        visible = min(self.min_visible, h * w // 2)
        masked = np.zeros(grid, bool)
        for _ in range(BLOCKS):
            area, aspect = rng.uniform(*BLOCK_SHARE) * h * w, rng.uniform(*BLOCK_ASPECT)
            rows = int(np.clip(round((area * aspect) ** 0.5), 1, h))
            columns = int(np.clip(round((area / aspect) ** 0.5), 1, w))
            top, left = rng.integers(h - rows + 1), rng.integers(w - columns + 1)
            trial = masked.copy()
            trial[top : top + rows, left : left + columns] = True
            if h * w - trial.sum() >= visible:
                masked = trial
        if not masked.any():  # a narrow grid, where even one block is too much
            masked[rng.integers(h), rng.integers(w)] = True
        return masked
