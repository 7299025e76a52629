"""Random changes of a sample that keep its meaning: flips and quarter turns. Seeded by the caller.

A transform is any callable (Sample, np.random.Generator) -> Sample; several are a tuple, applied in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eokit.data.sample import Sample

Transform = Callable[[Sample, np.random.Generator], Sample]


@dataclass(frozen=True)
class FlipRotate:
    """One of the eight symmetries of a square, the same for every modality and every target map (last two axes).

    A patch that is not square is only flipped. `where.transform` becomes None: a turned patch has no north-up grid.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample, turned and mirrored alike in all its parts."""
        square = all(one.values.shape[-1] == one.values.shape[-2] for one in sample.series.values())
        turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
        mirror = bool(rng.integers(2))

        def turned(maps: Tensor) -> Tensor:
            maps = torch.rot90(maps, turns, (-2, -1))
            return (maps.flip(-1) if mirror else maps).contiguous()

        series = {
            name: replace(one, values=turned(one.values), valid=turned(one.valid))
            for name, one in sample.series.items()
        }
        targets = {name: turned(one) if one.ndim >= 2 else one for name, one in sample.targets.items()}
        return replace(sample, series=series, targets=targets, where=replace(sample.where, transform=None))
