"""The JEPA loss over rows, and the gauges of a collapse."""

from __future__ import annotations

import math

import pytest
import torch

from eokit.pretraining.losses import effective_rank, feature_std, smooth_l1


def test_smooth_l1_is_the_mean_over_rows_and_channels():
    prediction, target = torch.tensor([[0.0, 0.0], [3.0, 0.5]]), torch.zeros(2, 2)
    assert smooth_l1(prediction, target).item() == pytest.approx((0 + 0 + 2.5 + 0.125) / 4)


def test_smooth_l1_of_no_rows_is_zero_and_has_a_gradient():
    prediction = torch.zeros(0, 4, requires_grad=True)
    loss = smooth_l1(prediction, torch.zeros(0, 4))
    loss.backward()
    assert loss.item() == 0


def test_the_effective_rank_of_one_direction_is_one():
    rows = torch.randn(50, 1) * torch.randn(8)
    assert effective_rank(rows).item() == pytest.approx(1.0, abs=1e-3)  # float32 rows, noise of 1e-7 in 7 directions


def test_the_effective_rank_of_equal_orthogonal_directions_is_their_number():
    assert effective_rank(3 * torch.eye(16)[:5]).item() == pytest.approx(5.0)


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values():
    rows = torch.randn(300, 12, dtype=torch.float64)
    share = torch.linalg.svdvals(rows) / torch.linalg.svdvals(rows).sum()
    assert effective_rank(rows).item() == pytest.approx(math.exp(-(share * share.log()).sum()))


def test_the_effective_rank_of_many_rows_is_estimated_from_some():
    torch.manual_seed(0)
    rows = torch.randn(20_000, 16)
    assert effective_rank(rows).item() == pytest.approx(effective_rank(rows[:2048]).item(), rel=0.01)


def test_the_effective_rank_of_nothing_is_one():
    assert effective_rank(torch.zeros(0, 8)).item() == 1
    assert effective_rank(torch.zeros(4, 8)).item() == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_the_effective_rank_of_rows_that_are_not_finite_is_nan(value):
    rows = torch.ones(5, 3, dtype=torch.float64)
    rows[2, 1] = value
    assert effective_rank(rows).isnan()


def test_the_feature_std_of_equal_rows_is_zero_whatever_their_length():
    assert feature_std(torch.randn(8) * torch.tensor([[1.0], [2.0], [5.0]])).item() == pytest.approx(0, abs=1e-3)


def test_the_feature_std_of_noise_is_near_one():
    torch.manual_seed(0)
    assert feature_std(torch.randn(4000, 64)).item() == pytest.approx(1.0, abs=0.02)


def test_the_feature_std_of_nothing_is_zero():
    assert feature_std(torch.zeros(0, 8)).item() == 0
