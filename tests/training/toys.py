"""A recipe and a data set small enough to train in milliseconds, on the real vocabulary of samples and batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from eokit.data.dataset import Draw
from eokit.data.sample import Batch, Sample, Series, Where
from eokit.errors import DataError
from eokit.nn.reduce import global_mean

BANDS, SIZE = 3, 2


class ToyData(Dataset):
    """Samples of noise that differ with the draw; the target is their sum, told for some pixels only."""

    def __init__(self, samples: int = 10, seed: int = 0, broken: int | None = None) -> None:
        self.samples, self.seed, self.broken = samples, seed, broken

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, key: Draw) -> Sample:
        if key.index == self.broken:
            raise DataError(f"sample {key.index} is cut")
        rng = np.random.default_rng([self.seed, key.draw, key.index])
        values = torch.from_numpy(rng.standard_normal((1, BANDS, SIZE, SIZE), np.float32))
        series = Series(values, torch.zeros(1, dtype=torch.int32), torch.ones(1, SIZE, SIZE, dtype=torch.bool), "s2")
        told = torch.from_numpy(rng.random((SIZE, SIZE)) < rng.random())
        return Sample({"s2": series}, Where(str(key.index)), {"sum": values[0].sum(0), "told": told})


class ToyRecipe(nn.Module):
    """Regression by a small MLP over the told pixels, with a teacher that follows as in an EMA recipe."""

    def __init__(self, dropout: float = 0.0, spoil_at: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(BANDS, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.teacher = nn.Linear(BANDS, 8).requires_grad_(False)
        self.teacher.load_state_dict(self.net[0].state_dict())
        self.spoil_at, self.progress = spoil_at, 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pixels = batch.series["s2"].values[:, 0].movedim(1, -1)
        error = (self.net(pixels)[..., 0] - batch.targets["sum"]).float().square()
        told = batch.targets["told"]
        loss = global_mean((error * told).sum(), told.sum())
        if self.spoil_at is not None and self.progress >= self.spoil_at:
            loss = loss * float("nan")
        return {"loss": loss, "weight": told.sum(), "told": told.float().mean()}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.progress = progress
        self.teacher.weight.lerp_(self.net[0].weight, 0.1)
