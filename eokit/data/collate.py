"""Stacks samples to a batch: every modality padded to its longest series, `valid` False and days 0 on padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eokit.data.sample import Batch, Sample, Series
from eokit.errors import ArgumentError


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples as one batch.

    All must have the same modalities and targets, as the samples of one store do. A modality without any date in the
    whole batch gets one padding date, so that no tensor is empty. ArgumentError where shapes do not stack.
    """
    if not samples:
        raise ArgumentError("samples is empty, a batch needs at least one")
    for kind in ("series", "targets"):
        keys = [list(getattr(sample, kind)) for sample in samples]
        strange = next((other for other in keys if other != keys[0]), None)
        if strange is not None:
            raise ArgumentError(f"samples differ in {kind}: {keys[0]} and {strange}; give all the same")
    series = {name: _pad([sample.series[name] for sample in samples], name) for name in samples[0].series}
    targets = {name: torch.stack([sample.targets[name] for sample in samples]) for name in samples[0].targets}
    return Batch(series, tuple(sample.where for sample in samples), targets)


def _pad(parts: list[Series], name: str) -> Series:
    """(T_i, C, H, W) of each sample -> (B, T, C, H, W) with T the longest."""
    shapes = {tuple(one.values.shape[1:]) for one in parts}
    if len(shapes) > 1:
        raise ArgumentError(f"{name}: samples of shapes {sorted(shapes)} (C, H, W) do not stack; crop them alike")
    bands, height, width = shapes.pop()
    longest = max(1, *(len(one.days) for one in parts))
    batch = len(parts)
    values = torch.zeros(batch, longest, bands, height, width, dtype=parts[0].values.dtype)
    days = torch.zeros(batch, longest, dtype=torch.int32)
    valid = torch.zeros(batch, longest, height, width, dtype=torch.bool)
    for row, one in enumerate(parts):
        count = len(one.days)
        values[row, :count] = one.values
        days[row, :count] = one.days
        valid[row, :count] = one.valid
    return Series(values, days, valid, parts[0].sensor)
