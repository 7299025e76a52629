"""Bootstrap intervals of scores: how much they would move had other patches, or samples, been drawn."""

from __future__ import annotations

import numpy as np

from eokit.tasks.metrics import SUMMARY, summarise
from eokit.tasks.multilabel import MULTILABEL_SUMMARY, summarise_multilabel

RESAMPLES = 1000
"""Resamples an interval; the 2.5 % quantile of 1000 is held by 25 of them."""
NUMBERS = 2_000_000
"""How often each sample counts in each resample: so many at once, 16 MB."""


def intervals(
    matrices: np.ndarray, ignore: int | None, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of every summary score over patches.

    matrices: (N, K, K), one confusion matrix a patch. Whole patches are drawn with replacement (their pixels are not
    independent), their matrices summed, the score taken of each sum. None for fewer than two patches.
    """
    n, k, _ = matrices.shape
    if n < 2:
        return dict.fromkeys(SUMMARY)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)  # (R, N): how often each
    drawn = (times.astype(np.float64) @ matrices.reshape(n, k * k)).reshape(resamples, k, k)
    return _tails(summarise(drawn, ignore), level)


def intervals_of_units(
    matrix: np.ndarray, ignore: int | None, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """`intervals` over the units that a matrix (K, K) counts, each a sample of its own.

    Drawing n of them with replacement is drawing how many fall into each cell.
    """
    n, k = int(matrix.sum()), len(matrix)
    if n < 2:
        return dict.fromkeys(SUMMARY)
    drawn = np.random.default_rng(seed).multinomial(n, matrix.reshape(-1) / n, size=resamples)
    return _tails(summarise(drawn.reshape(resamples, k, k), ignore), level)


def intervals_multilabel(
    scores: np.ndarray, truth: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of the scores of several classes a sample, over samples: scores and truth (n, K)."""
    n = len(truth)
    if n < 2:
        return dict.fromkeys(MULTILABEL_SUMMARY)
    rng, parts = np.random.default_rng(seed), []
    at_once = max(1, NUMBERS // n)
    for start in range(0, resamples, at_once):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(at_once, resamples - start))
        parts.append(summarise_multilabel(scores, truth, times))
    return _tails({name: np.concatenate([part[name] for part in parts]) for name in MULTILABEL_SUMMARY}, level)


def _tails(values: dict[str, np.ndarray], level: float) -> dict[str, tuple[float, float] | None]:
    """The quantiles of each score (R,) that leave out the same share on either side."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    out: dict[str, tuple[float, float] | None] = {}
    for name, resampled in values.items():
        low, high = np.nanquantile(resampled, tails)
        out[name] = (float(low), float(high))
    return out
