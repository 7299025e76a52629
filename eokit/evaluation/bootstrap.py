"""Bootstrap intervals of scores: how much they would move had other patches been drawn."""

from __future__ import annotations

import numpy as np

from eokit.tasks.metrics import SUMMARY, summarise

RESAMPLES = 1000
"""Resamples an interval; the 2.5 % quantile of 1000 is held by 25 of them."""


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
    tails = [(1 - level) / 2, (1 + level) / 2]
    out: dict[str, tuple[float, float] | None] = {}
    for name, values in summarise(drawn, ignore).items():
        low, high = np.nanquantile(values, tails)
        out[name] = (float(low), float(high))
    return out
