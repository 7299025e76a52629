"""Several stores as one data set, a batch from one of them: their sensors, extents and numbers of dates differ.

What a batch shares (the patch size) follows from the number of its step, what a sample alone has from a seed of its
own, so that any number of processes and any restart see the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from eokit.data.dataset import Draw, SampleDataset
from eokit.data.sample import Sample
from eokit.errors import ArgumentError


class StepDraw(NamedTuple):
    """The position `index` of a mixture in step number `step`; `draw` is another one in each slot of each step."""

    draw: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a draw
    step: int


@dataclass(frozen=True)
class Part:
    """One store of a mixture. weight: how often it is drawn, beside the others'. scales: patch sizes in metres."""

    dataset: SampleDataset
    weight: float
    scales: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.weight > 0 or not self.scales or not len(self.dataset):
            raise ArgumentError(
                f"{self.dataset.store.path}: weight {self.weight:g}, scales {self.scales}, {len(self.dataset)} samples;"
                " expected a weight above 0, and one or more of both"
            )


class Mixture(Dataset[Sample]):
    """The samples of all parts one after the other; items asked for by `StepDraw` also say how the step is to be taken.

    Targets that are added, each () int64: `patch_metres` and `step`, alike in a batch, and `seed`.
    """

    def __init__(self, parts: Sequence[Part], seed: int = 0) -> None:
        self.parts, self.seed = tuple(parts), seed
        self._starts = np.cumsum([0, *self.lengths])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples of each part."""
        return tuple(len(part.dataset) for part in self.parts)

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, key: StepDraw) -> Sample:
        number = int(np.searchsorted(self._starts, key.index, side="right")) - 1
        part, place = self.parts[number], key.index - int(self._starts[number])
        sample = part.dataset[Draw(key.draw, place)]
        scale = np.random.default_rng([self.seed, key.step, len(part.scales)]).integers(len(part.scales))
        seed = np.random.default_rng([self.seed, key.draw, key.index]).integers(2**62)
        told = {"patch_metres": part.scales[scale], "step": key.step, "seed": int(seed)}
        return replace(sample, targets=sample.targets | {name: torch.tensor(one) for name, one in told.items()})
