"""Which sample comes when: any batch of a run can be named from its number alone.

Nothing is stored, so a run continues exactly where it stopped, and W processes see the batches of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eokit.data.dataset import Draw
from eokit.errors import ArgumentError, UsageError


@dataclass(frozen=True)
class Order:
    """The endless sequence of draws from `samples` positions, one permutation an epoch, cut into global batches.

    Batches run across the ends of epochs, so that none is short; `samples` may be smaller than `batch_size`, and the
    same position then comes several times in a batch, each time as another draw.
    """

    samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ArgumentError(f"samples = {self.samples}: there is nothing to draw from")

    def batch(self, step: int) -> list[Draw]:
        """The `batch_size` draws of step number `step` (from 0); `Draw.draw` is the epoch."""
        first = step * self.batch_size
        return [self._at(position) for position in range(first, first + self.batch_size)]

    def _at(self, position: int) -> Draw:
        epoch, place = divmod(position, self.samples)
        return Draw(epoch, int(_permutation(self.samples, self.seed, epoch)[place]))


@dataclass(frozen=True)
class RankBatches:
    """The micro-batches of one process from step `start` to `stop`: a batch sampler for DataLoader.

    Process `rank` of `ranks` takes a contiguous slice of each global batch and cuts it into `accumulate` micro-batches.
    """

    order: Order
    start: int
    stop: int
    rank: int = 0
    ranks: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        micro_batch(self.order.batch_size, self.ranks, self.accumulate)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        size = micro_batch(self.order.batch_size, self.ranks, self.accumulate)
        for step in range(self.start, self.stop):
            draws = self.order.batch(step)
            for micro in range(self.accumulate):
                first = (self.rank * self.accumulate + micro) * size
                yield draws[first : first + size]


def micro_batch(batch_size: int, ranks: int, accumulate: int) -> int:
    """Samples that one process takes at once; a UsageError where the batch does not divide."""
    parts = ranks * accumulate
    if batch_size % parts:
        raise UsageError(
            f"batch_size {batch_size} does not divide into {ranks} processes x {accumulate} micro-batches;"
            f" use a multiple of {parts}"
        )
    return batch_size // parts


@lru_cache(maxsize=4)
def _permutation(samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(samples)
