"""A toy encoder (a patch embedding of the mean over valid dates) and toy batches, for what stands on encoders."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.sample import Batch, Series, Where
from eokit.models.base import Encoder, Features, config_from

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass(frozen=True)
class ToyConfig:
    modalities: dict = field(default_factory=lambda: {"s2": 10})
    width: int = 16
    patch_size: int = 4


class Toy(Encoder):
    family = "toy"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config, self.width, self.patch_size = config, config.width, config.patch_size
        self.embed = torch.nn.Conv2d(config.modalities["s2"], config.width, config.patch_size, config.patch_size)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, batch: Batch) -> Features:
        series = batch.series["s2"]
        weight = series.valid.float()[:, :, None]
        mean = (series.values * weight).sum(1) / weight.sum(1).clamp_min(1)
        patch = self.drop(F.gelu(self.embed(mean)))
        seen = F.max_pool2d(series.valid.any(1).float()[:, None], self.patch_size)[:, 0] > 0
        return Features(tile=patch.mean((-2, -1)), patch=patch, seen=seen)


PRESETS = {"tiny": {}}


def build(config: dict) -> Toy:
    return Toy(config_from(ToyConfig, config, "toy"))


def toy(seed: int = 0, **config: int) -> Toy:
    torch.manual_seed(seed)
    return Toy(ToyConfig(**config))


def preprocessing(bands: tuple[str, ...] = BANDS, mean: float = 0.0) -> Preprocessing:
    n = len(bands)
    return Preprocessing({"s2": Input("sentinel-2", bands, (mean,) * n, (1.0,) * n)})


def toy_batch(n: int = 2, dates: int = 3, size: int = 8, classes: int = 4, seed: int = 0) -> Batch:
    """Random pixels; `semantic` holds ids 0..classes-1."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, dates, 10, size, size, generator=generator)
    days = torch.arange(dates, dtype=torch.int32).expand(n, dates) * 10 + 17_800
    series = Series(values, days, torch.ones(n, dates, size, size, dtype=torch.bool), "sentinel-2")
    labels = torch.randint(0, classes, (n, size, size), generator=generator)
    return Batch({"s2": series}, tuple(Where(str(i)) for i in range(n)), {"semantic": labels})
