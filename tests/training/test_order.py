"""The stateless order of draws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eokit.errors import UsageError
from eokit.training.order import Order, RankBatches


def draws(order: Order, steps: int) -> list:
    return [draw for step in range(steps) for draw in order.batch(step)]


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 17), seed=st.integers(0, 5))
def test_each_epoch_draws_every_position_once(samples, batch_size, seed):
    seen = draws(Order(samples, batch_size, seed), -(-2 * samples // batch_size))
    for epoch in (0, 1):
        assert sorted(draw.index for draw in seen if draw.draw == epoch) == list(range(samples))


@given(samples=st.integers(1, 5), batch_size=st.integers(6, 12))
def test_fewer_samples_than_a_batch_come_as_different_draws(samples, batch_size):
    batch = Order(samples, batch_size, 0).batch(0)
    assert len(batch) == batch_size == len(set(batch))


def test_a_batch_does_not_depend_on_what_was_asked_before():
    order = Order(7, 3, seed=1)
    late = order.batch(50)
    draws(order, 50)
    assert order.batch(50) == late


def test_epochs_differ_in_their_order():
    order = Order(20, 20, seed=0)
    assert [draw.index for draw in order.batch(0)] != [draw.index for draw in order.batch(1)]


def test_seeds_differ_in_their_order():
    assert Order(20, 20, seed=0).batch(0) != Order(20, 20, seed=1).batch(0)


@given(ranks=st.integers(1, 4), accumulate=st.integers(1, 3))
def test_ranks_and_micro_batches_together_are_the_global_batch(ranks, accumulate):
    order = Order(9, ranks * accumulate * 2, seed=0)
    parts = [list(RankBatches(order, 3, 4, rank, ranks, accumulate)) for rank in range(ranks)]
    assert [draw for rank in parts for micro in rank for draw in micro] == order.batch(3)


def test_batches_start_at_the_step_asked_for():
    order = Order(9, 2, seed=0)
    assert list(RankBatches(order, 5, 8)) == [order.batch(step) for step in (5, 6, 7)]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"batch_size 6 .* 2 processes x 2 micro-batches; use a multiple of 4"):
        RankBatches(Order(9, 6, 0), 0, 1, rank=0, ranks=2, accumulate=2)
