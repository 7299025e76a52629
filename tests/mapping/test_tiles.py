"""Tiles, their weights, and the blending of probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.errors import UsageError
from eokit.mapping.scene import Placed
from eokit.mapping.tiles import Blender, batches, blend_weights, check_tiling, plan_strips
from eokit.viz.map import UNSEEN


class Blank:
    """A scene of a size; nothing is read from it here."""

    def __init__(self, height: int, width: int) -> None:
        self.name, self.height, self.width, self.days = "blank", height, width, {}


SIZES = st.integers(1, 150)


@settings(max_examples=60, deadline=None)
@given(height=SIZES, width=SIZES, tile=st.sampled_from([8, 32, 64]), overlap=st.sampled_from([0, 4, 16]))
def test_tiles_cover_every_pixel_and_stay_inside(height, width, tile, overlap):
    overlap = min(overlap, tile // 2)
    seen = np.zeros((height, width), int)
    for strip in plan_strips([Placed(Blank(height, width))], tile, overlap):
        for one in strip.tiles:
            assert one.top >= 0
            assert one.left >= 0
            assert one.top + one.window.height <= height
            assert one.left + one.window.width <= width
            seen[one.top : one.top + one.window.height, one.left : one.left + one.window.width] += 1
    assert seen.min() >= 1


def test_strips_go_from_top_to_bottom_whatever_the_order_of_the_scenes():
    scenes = [Placed(Blank(40, 40), 300, 0), Placed(Blank(40, 40), 0, 90), Placed(Blank(70, 40), 33, 17)]
    tops = [strip.top for strip in plan_strips(scenes, 32, 8)]
    assert tops == sorted(tops)
    assert min(tops) == 0


def test_a_batch_holds_tiles_of_one_shape():
    scenes = [Placed(Blank(16, 16)), Placed(Blank(9, 16), 0, 20), Placed(Blank(16, 16), 0, 40)]
    (strip,) = plan_strips(scenes, 16, 0)
    assert [[one.left for one in batch] for batch in batches(strip.tiles, 8)] == [[20], [0, 40]]


@pytest.mark.parametrize(("tile", "overlap"), [(30, 8), (32, 6), (0, 0), (32, 20), (32, -4)])
def test_tiles_that_are_no_whole_patches_are_refused(tile, overlap):
    with pytest.raises(UsageError, match=f"{tile}|{overlap}"):
        check_tiling(tile, overlap, 4)


def test_weights_are_never_zero():
    assert blend_weights(7, 13, 16).min() > 0


def test_weights_of_two_overlapping_tiles_sum_to_one():
    weights = blend_weights(64, 64, 16)[32]
    np.testing.assert_allclose(weights[-16:] + weights[:16], 1, rtol=1e-6)


def test_blending_a_constant_gives_the_constant():
    strips = plan_strips([Placed(Blank(75, 91))], 32, 12)
    blender = Blender(3, max(strip.bottom - strip.top for strip in strips), 91)
    share = np.array([0.2, 0.7, 0.1], np.float32)[:, None, None]
    rows = []
    for strip in strips:
        rows += blender.advance(strip.top)
        for one in strip.tiles:
            shape = one.window[2:]
            blender.add(one.top, one.left, np.broadcast_to(share, (3, *shape)), blend_weights(*shape, 12))
    rows += blender.advance(75)
    classes = np.concatenate([row[1] for row in rows])
    confidence = np.concatenate([row[2] for row in rows])
    assert classes.shape == (75, 91)
    assert (classes == 1).all()
    assert (confidence == 70).all()


def test_rows_come_out_once_and_in_order():
    blender = Blender(2, 32, 8)
    tops = [(top, len(classes)) for until in (10, 10, 24, 60) for top, classes, _ in blender.advance(until)]
    assert tops == [(0, 10), (10, 14), (24, 32)]


def test_pixels_without_weight_are_unseen():
    blender = Blender(2, 4, 4)
    weights = np.ones((4, 4), np.float32)
    weights[1, 2] = 0
    blender.add(0, 0, np.full((2, 4, 4), 0.5, np.float32), weights)
    ((_, classes, confidence),) = blender.advance(4)
    assert classes[1, 2] == confidence[1, 2] == UNSEEN
    assert (classes == UNSEEN).sum() == 1
