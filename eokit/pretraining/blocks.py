"""Blocks of patches that a JEPA predicts from the rest, as I-JEPA draws them, but with a context that teaches.

I-JEPA's four blocks of a fifth to four fifths of the grid, as AnySat sets them, leave 4 to 10 % of the patches as
context, a single one on a grid of 3 x 3 to 6 x 6. Here a sample predicts as many of its four blocks as leave it a
share of `LEAST_CONTEXT`, one at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BLOCKS = 4
AREA = (0.2, 0.8)
ASPECT = (0.75, 1.5)
CONTEXT_AREA = (0.85, 1.0)
"""Shares of the grid and aspect ratio in AnySat's configuration of I-JEPA's collator."""
LEAST_CONTEXT = 0.15
"""Share of the patches that stay visible."""


class BlockMasks(NamedTuple):
    """targets: (B, BLOCKS, K) patch numbers, blocks of one size; used: (B, BLOCKS) bool; context: (B, P) bool."""

    targets: np.ndarray
    used: np.ndarray
    context: np.ndarray


def draw_blocks(grid: tuple[int, int], sizes: np.random.Generator, places: Sequence[np.random.Generator]) -> BlockMasks:
    """Masks of a batch: block sizes from `sizes`, alike for all; where they lie from each sample's generator."""
    h, w = grid
    area, aspect = sizes.uniform(*AREA) * h * w, sizes.uniform(*ASPECT)
    block = _side((area * aspect) ** 0.5, h), _side((area / aspect) ** 0.5, w)
    share = sizes.uniform(*CONTEXT_AREA) ** 0.5
    seen = max(1, round(share * h)), max(1, round(share * w))
    least = max(1, int(np.ceil(LEAST_CONTEXT * h * w)))
    numbers = np.arange(h * w).reshape(h, w)
    targets, used, context = [], [], []
    for rng in places:
        blocks = [_at(numbers, block, rng).ravel() for _ in range(BLOCKS)]
        visible = np.zeros(h * w, bool)
        visible[_at(numbers, seen, rng).ravel()] = True
        taken: list[bool] = []
        for one in blocks:
            left = visible.copy()
            left[one] = False
            taken.append(bool(left.sum() >= least) or not any(taken))
            if taken[-1]:
                visible = left
        if not visible.any():  # the one block covers what the context block shows
            visible = np.isin(numbers.ravel(), blocks[0], invert=True)
        targets.append(blocks)
        used.append(taken)
        context.append(visible)
    return BlockMasks(np.array(targets), np.array(used), np.array(context))


def _side(length: float, most: int) -> int:
    """A block's edge: at least 1, and less than the grid's unless that is 1."""
    return int(np.clip(round(length), 1, max(most - 1, 1)))


def _at(numbers: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The numbers in a block of `size` at a random place."""
    top, left = (int(rng.integers(length - edge + 1)) for length, edge in zip(numbers.shape, size, strict=True))
    return numbers[top : top + size[0], left : left + size[1]]
