"""Batches of noise in the shape of real ones: what the dry runs of training and of maps try a model on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch, Series, Where


def random_batch(
    preprocessing: Preprocessing,
    dates: Mapping[str, int],
    shape: tuple[int, int, int] | Mapping[str, tuple[int, int, int]],
    targets: Mapping[str, Tensor] | None = None,
) -> Batch:
    """Noise as `preprocessing` would deliver it, all of it valid, a date every five days, with these targets.

    dates: modality -> T, of the modalities that the batch has. shape: (B, H, W), of all of them or of each.
    """
    series, size = {}, 0
    for name, count in dates.items():
        one = preprocessing.inputs[name]
        size, height, width = shape[name] if isinstance(shape, Mapping) else shape
        values = torch.randn(size, count, len(one.bands), height, width)
        days = (18_000 + 5 * torch.arange(count, dtype=torch.int32)).expand(size, count)
        valid = torch.ones(size, count, height, width, dtype=torch.bool)
        series[name] = Series(values, days, valid, one.sensor)
    return Batch(series, tuple(Where(f"random-{number}") for number in range(size)), dict(targets or {}))
