"""Toy data sets in memory: places whose pixels say their class, with a chosen amount of noise."""

from __future__ import annotations

import numpy as np
import torch

from eokit.data.sample import Sample, Series, Where

CLASSES = ("background", "meadow", "corn", "void")
VOID = 3


class ToyPlaces:
    """`n` samples of 16 x 16 pixels in 4 x 4 fields of one class each; T varies; signal 0 is pure noise."""

    def __init__(self, n: int, *, signal: float = 3.0, seed: int = 0, years: int = 0) -> None:
        rng = np.random.default_rng(seed)
        spectra = np.random.default_rng(7).normal(size=(4, 10))  # the same crops for every data set
        self.samples = []
        for number in range(n):
            fields = rng.integers(0, 3, (4, 4))
            labels = np.kron(fields, np.ones((4, 4), int))
            dates = int(rng.integers(4, 9))
            days = np.sort(rng.choice(300, dates, replace=False)) + 17_800 + 365 * years
            noise = rng.normal(size=(dates, 10, 16, 16))
            values = signal * spectra[labels].transpose(2, 0, 1)[None] + noise
            labels[:2] = VOID
            series = Series(
                torch.from_numpy(values).float(),
                torch.from_numpy(days.astype(np.int32)),
                torch.ones(dates, 16, 16, dtype=torch.bool),
                "sentinel-2",
            )
            self.samples.append(Sample({"s2": series}, Where(str(number)), {"semantic": torch.from_numpy(labels)}))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int) -> Sample:
        return self.samples[key]

    def seasons(self) -> list[list[np.ndarray]]:
        return [[one.days.numpy() for one in sample.series.values()] for sample in self.samples]
