"""Which sample comes when: any batch of a run can be named from its number alone.

Nothing is stored, so a run continues exactly where it stopped, and W processes see the batches of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from eokit.data.dataset import Draw
from eokit.data.mixture import StepDraw
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
class MixedOrder:
    """The endless sequence of draws from several parts of a `Mixture`: each batch from one, drawn by its weight.

    Within a part batches follow each other as in `Order`. samples: of each part.
    """

    samples: tuple[int, ...]
    weights: tuple[float, ...]
    batch_size: int
    seed: int

    def batch(self, step: int) -> list[StepDraw]:
        """The `batch_size` draws of step number `step` (from 0), all from one part."""
        which = _choices(self.weights, self.seed, 1 << max(step, 1).bit_length())
        part = int(which[step])
        before = int((which[:step] == part).sum())
        drawn = Order(self.samples[part], self.batch_size, self.seed + part).batch(before)
        first = sum(self.samples[:part])
        return [StepDraw(step * self.batch_size + slot, first + one.index, step) for slot, one in enumerate(drawn)]


@dataclass(frozen=True)
class RankBatches:
    """The micro-batches of one process from step `start` to `stop`: a batch sampler for DataLoader.

    Process `rank` of `ranks` takes a contiguous slice of each global batch and cuts it into `accumulate` micro-batches.
    """

    order: Order | MixedOrder
    start: int
    stop: int
    rank: int = 0
    ranks: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        micro_batch(self.order.batch_size, self.ranks, self.accumulate)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw] | list[StepDraw]]:
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


@lru_cache(maxsize=4)
def _choices(weights: tuple[float, ...], seed: int, steps: int) -> np.ndarray:
    """Which part each of the first `steps` steps is drawn from; more steps begin with the same."""
    share = np.cumsum(weights) / np.sum(weights)
    return np.searchsorted(share, np.random.default_rng([seed, len(weights)]).random(steps), side="right")
