"""Storing features costs at most half a step, says what it clipped, and keeps what was not seen apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eokit.mapping.embedding.coding import UNSEEN_INT8, Coding, Loss, scale_of


def features(seed: int, shape=(3, 5, 4, 6)):
    """Values (B, D, h, w) whose channels differ in size by orders of magnitude, and what of them was seen."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-3, 4, shape[1])
    values = (rng.standard_normal(shape) * sizes[:, None, None]).astype(np.float32)
    return values, rng.random((shape[0], *shape[2:])) > 0.3


def int8_for(values, seen):
    return Coding("int8", scale_of(np.where(seen[:, None], np.abs(values), 0).max((0, 2, 3))))


@given(st.integers(0, 1000))
def test_int8_keeps_every_seen_number_within_half_a_step(seed):
    values, seen = features(seed)
    coding = int8_for(values, seen)
    error = np.abs(coding.decode(coding.encode(values, seen)) - values).max((0, 2, 3), where=seen[:, None], initial=0)
    # the division and the product of float32 round as well, by some 2^-23 of 127 steps
    assert (error <= coding.scale * (0.5 + 1e-4)).all()


def test_float16_keeps_eleven_bits():
    values, seen = features(1)
    coding = Coding("float16")
    kept = coding.decode(coding.encode(values, seen))
    np.testing.assert_allclose(*(np.where(seen[:, None], x, 0) for x in (kept, values)), rtol=2**-11, atol=2**-24)


def test_float32_keeps_every_bit():
    values, seen = features(2)
    assert (Coding("float32").encode(values, seen).view(np.int32) == values.view(np.int32))[
        np.broadcast_to(seen[:, None], values.shape)
    ].all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_what_was_not_seen_reads_as_no_number_and_nothing_seen_does(dtype):
    values, seen = features(3)
    coding = int8_for(values, seen) if dtype == "int8" else Coding(dtype)
    kept = coding.decode(coding.encode(np.where(seen[:, None], values, np.nan), seen))
    assert (np.isnan(kept) == ~seen[:, None]).all()


def test_no_seen_number_is_stored_as_unseen():
    values = np.full((1, 1, 1, 1), -1e6, np.float32)
    stored = Coding("int8", np.ones(1, np.float32)).encode(values, np.ones((1, 1, 1), bool))
    assert stored.item() == UNSEEN_INT8 + 1


def test_the_clipped_share_and_the_error_are_those_of_the_seen_numbers():
    coding = Coding("int8", np.array([1.0], np.float32))
    values = np.array([10.0, 127.4, 254.0, 500.0], np.float32).reshape(4, 1)
    seen = np.array([True, True, True, False])
    loss = Loss()
    loss.add(coding, values, coding.encode(values, seen), seen)
    assert (loss.count, loss.clipped_share) == (3, pytest.approx(1 / 3))
    squares = np.array([0, 0.4, 127.0]) ** 2
    assert loss.error == pytest.approx((squares.sum() / (values[:3] ** 2).sum()) ** 0.5, rel=1e-4)


def test_a_channel_that_is_always_zero_has_a_step():
    assert scale_of(np.array([0.0, 127.0])).tolist() == [1.0, 1.0]
