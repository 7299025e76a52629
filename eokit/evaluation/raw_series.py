"""What baselines learn from: the raw series of each pixel, put on a common grid of days, or a sample's moments.

Every pixel's valid values are interpolated linearly to a ten-day grid counted from 1 January of the year in the middle
of its season, so that another year or other dates give the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eokit.data.sample import Sample, Series
from eokit.errors import DataError
from eokit.progress import Progress
from eokit.tasks.features import MAX_TOKENS, Labels, Tokens, draw, labelled

STEP = 10
"""Days between two columns of the grid; Sentinel-2 passes every five, and half of its passes are cloudy."""


@dataclass(frozen=True)
class Grid:
    """Days from 1 January of the middle year of a season, common to all samples."""

    first: int
    last: int

    @property
    def days(self) -> np.ndarray:
        """(G,) days."""
        return np.arange(self.first, self.last + 1, STEP)


def origin(season: Sequence[np.ndarray]) -> int:
    """1 January (days since 1970-01-01) of the year of a season's median date. season: (T,) days per modality."""
    middle = np.datetime64("1970-01-01", "D") + int(np.median(np.concatenate(season)))
    return int(middle.astype("datetime64[Y]").astype("datetime64[D]").astype(int))


def common_grid(seasons: Iterable[Sequence[np.ndarray]]) -> Grid:
    """The grid that spans all `seasons`, each the days (T,) of every modality of one sample."""
    spans = []
    for season in seasons:
        start = origin(season)
        spans += [(int(days.min()) - start, int(days.max()) - start) for days in season]
    return Grid(min(first for first, _ in spans), max(last for _, last in spans))


def columns(sample: Sample, grid: Grid, pixels: np.ndarray) -> np.ndarray:
    """(n, columns) float32: the series of every modality at the flat pixel numbers `pixels`, on the grid."""
    start = origin([one.days.numpy() for one in sample.series.values()])
    parts = [resample(one, one.days.numpy() - start, grid.days, pixels) for one in sample.series.values()]
    return np.concatenate(parts, axis=1)


def resample(series: Series, days: np.ndarray, grid: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(n, G * C): each pixel's valid values (T, C, n) interpolated linearly to `grid`, held beyond the first and last.

    0, the mean of normalised values, where a pixel was never seen.
    """
    order = np.argsort(days, kind="stable")
    days = days[order]
    values = series.values.flatten(2).numpy()[order][:, :, pixels]  # (T, C, n)
    valid = series.valid.flatten(1).numpy()[order][:, pixels]  # (T, n)
    dates, _, n = values.shape
    number = np.arange(dates)[:, None]
    before = np.maximum.accumulate(np.where(valid, number, -1), axis=0)  # last valid date up to t, -1: none
    after = np.minimum.accumulate(np.where(valid, number, dates)[::-1], axis=0)[::-1]  # first valid date from t on
    before, after = np.vstack([np.full((1, n), -1), before]), np.vstack([after, np.full((1, n), dates)])
    cut = np.searchsorted(days, grid, side="right")  # dates up to the grid day
    low, high = before[cut], after[cut]  # (G, n)
    low, high = np.where(low < 0, high, low), np.where(high == dates, low, high)  # held at the ends
    never = low == dates  # no valid date at all (then low came from high)
    low, high = np.where(never, 0, low), np.where(never | (high < 0), 0, high)
    gap = days[high] - days[low]
    share = np.divide(grid[:, None] - days[low], gap, out=np.zeros(gap.shape), where=gap > 0)  # (G, n)
    at = np.arange(n)
    first, second = values[low, :, at], values[high, :, at]  # (G, n, C)
    out = first + share[..., None].astype(np.float32) * (second - first)
    out[never] = 0
    return out.transpose(1, 0, 2).reshape(n, -1).astype(np.float32)


def gather_pixels(
    dataset: Any, labels: Labels, grid: Grid, what: str, *, most: int = MAX_TOKENS, seed: int = 0, quiet: bool = False
) -> Tokens:
    """The series of about `most` labelled pixels, an equal share of each sample of `dataset`, drawn by `seed`."""
    share = math.ceil(most / max(1, len(dataset)))
    x, y = [], []
    for number, sample in enumerate(shown(dataset, what, quiet)):
        truth = same_grid(sample, labels)
        known = labelled(truth, labels.ignore).flatten().nonzero().flatten()
        pixels = draw(known, share, [seed, number])
        x.append(torch.from_numpy(columns(sample, grid, pixels.numpy())))
        y.append(truth.flatten()[pixels])
    if not sum(map(len, y)):
        raise DataError("no labelled pixel to learn from: every label of these folds is void")
    return Tokens(torch.cat(x), torch.cat(y))


def gather_moments(dataset: Any, labels: Labels, what: str, quiet: bool = False) -> Tokens:
    """Mean and deviation of each band of every labelled sample of `dataset`, with its labels of the whole sample."""
    x, y = [], []
    for sample in shown(dataset, what, quiet):
        truth = sample.targets[labels.name].long()
        if labelled(truth, labels.ignore).all():
            x.append(moments(sample))
            y.append(truth)
    if not y:
        raise DataError("no labelled sample: every label of these folds is void")
    return Tokens(torch.stack(x), torch.stack(y))


def moments(sample: Sample) -> torch.Tensor:
    """(2 C,) of all modalities: mean and deviation over time and space of each band where it is valid; 0 if nowhere."""
    parts = []
    for one in sample.series.values():
        pixels = one.values.movedim(1, -1)[one.valid].double()  # (n, C)
        known = pixels if len(pixels) else pixels.new_zeros(1, one.values.shape[1])
        parts += [known.mean(0), known.std(0, unbiased=False)]
    return torch.cat(parts).float()


def same_grid(sample: Sample, labels: Labels) -> torch.Tensor:
    """The labels (H, W) of a sample, whose series must lie on the same pixels."""
    truth = sample.targets[labels.name].long()
    for name, one in sample.series.items():
        if one.values.shape[-2:] != truth.shape:
            raise DataError(
                f"{name} has {tuple(one.values.shape[-2:])} pixels, the labels {tuple(truth.shape)};"
                " raw series need them on one grid: leave this modality out (--modalities)"
            )
    return truth


def shown(dataset: Any, what: str, quiet: bool) -> Iterator[Sample]:
    """The samples of `dataset` in order, with progress."""
    with Progress(what, len(dataset), quiet=quiet) as bar:
        for number in range(len(dataset)):
            yield dataset[number]
            bar.advance()
