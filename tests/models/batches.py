"""Random batches for tests of encoders and recipes: noise with dates, clouds and padding, no real season."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from eokit.data.sample import Batch, Series, Where

SENSORS = {"s2": "sentinel-2", "s1-asc": "sentinel-1", "s1-des": "sentinel-1"}
DATES = {"s2": 5, "s1-asc": 3, "s1-des": 4}


def random_series(
    modality: str, bands: int, *, size: int = 3, side: int = 16, dates: int | None = None, seed: int = 0
) -> Series:
    """Noise with a quarter of the pixels clouded in 4 x 4 cells, and one wholly clouded date in the last sample."""
    rng = torch.Generator().manual_seed(seed)
    dates = DATES[modality] if dates is None else dates
    values = torch.randn(size, dates, bands, side, side, generator=rng)
    days = 17_700 + torch.randint(0, 400, (size, dates), generator=rng, dtype=torch.int32).sort(1).values
    cells = torch.rand(size, dates, -(-side // 4), -(-side // 4), generator=rng) > 0.25
    valid = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :side, :side].contiguous()
    if dates:
        valid[-1, 0] = False
    return Series(values * valid[:, :, None], days, valid, SENSORS[modality])


def random_batch(modalities: Mapping[str, int], *, size: int = 3, side: int = 16, seed: int = 0) -> Batch:
    """A batch of `size` samples with all of `modalities` (name -> bands)."""
    series = {
        name: random_series(name, bands, size=size, side=side, seed=seed + 10 * number)
        for number, (name, bands) in enumerate(modalities.items())
    }
    return Batch(series, tuple(Where(str(number)) for number in range(size)))


def take(batch: Batch, samples: slice) -> Batch:
    """Some samples of a batch."""
    return change(batch, lambda one: Series(one.values[samples], one.days[samples], one.valid[samples], one.sensor))


def pad_dates(one: Series, dates: int) -> Series:
    """The series with `dates` dates of padding at its end, as collation writes it."""
    size, _, bands, height, width = one.values.shape
    return replace(
        one,
        values=torch.cat([one.values, torch.zeros(size, dates, bands, height, width)], 1),
        days=torch.cat([one.days, torch.zeros(size, dates, dtype=torch.int32)], 1),
        valid=torch.cat([one.valid, torch.zeros(size, dates, height, width, dtype=torch.bool)], 1),
    )


def shuffle_dates(one: Series, seed: int = 0) -> Series:
    """The series with its dates in another order."""
    order = torch.randperm(one.days.shape[1], generator=torch.Generator().manual_seed(seed))
    return replace(one, values=one.values[:, order], days=one.days[:, order], valid=one.valid[:, order])


def change(batch: Batch, alter) -> Batch:
    """The batch with `alter` applied to each series; `where` follows the number of samples."""
    series = {name: alter(one) for name, one in batch.series.items()}
    size = next(iter(series.values())).values.shape[0]
    return replace(batch, series=series, where=batch.where[:size])
