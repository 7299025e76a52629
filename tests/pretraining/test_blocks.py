"""Blocks for a JEPA: as I-JEPA draws them, with a context on the smallest grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eokit.pretraining.blocks import BLOCKS, LEAST_CONTEXT, draw_blocks

SIDES = st.integers(2, 20)


def draw(grid, seed=0, samples=3):
    return draw_blocks(grid, np.random.default_rng(seed), [np.random.default_rng([seed, n]) for n in range(samples)])


@given(SIDES, SIDES, st.integers(0, 1000))
def test_context_and_used_targets_never_meet_and_neither_is_empty(h, w, seed):
    masks = draw((h, w), seed)
    for targets, used, context in zip(masks.targets, masks.used, masks.context, strict=True):
        assert used.any()
        assert context.any()
        assert not context[targets[used].ravel()].any()


@given(SIDES, SIDES, st.integers(0, 1000))
def test_a_target_is_a_block_of_one_size_in_the_batch(h, w, seed):
    masks = draw((h, w), seed)
    assert masks.targets.shape[:2] == (3, BLOCKS)
    for block in masks.targets.reshape(-1, masks.targets.shape[-1]):
        rows, columns = np.unravel_index(block, (h, w))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == len(set(block.tolist())) == len(block)


@pytest.mark.parametrize("side", [3, 4, 6, 10, 16])
def test_a_share_of_the_patches_stays_visible_wherever_one_block_leaves_it(side):
    shares, single = [], []
    for seed in range(200):
        masks = draw((side, side), seed)
        shares += masks.context.mean(1)[masks.used.sum(1) > 1].tolist()
        single += masks.context.mean(1).tolist()
    assert min(shares, default=1) >= LEAST_CONTEXT
    assert np.mean(single) > 0.2  # I-JEPA's own masks leave 4 to 10 %


def test_where_blocks_lie_depends_on_the_sample_alone():
    rngs = [np.random.default_rng(n) for n in (7, 8)]
    both = draw_blocks((8, 8), np.random.default_rng(1), rngs)
    second = draw_blocks((8, 8), np.random.default_rng(1), [np.random.default_rng(8)])
    assert np.array_equal(both.targets[1], second.targets[0])
    assert np.array_equal(both.context[1], second.context[0])
