"""The calendar on tensors, and codes of places and days."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eokit.errors import ArgumentError
from eokit.nn.positions import DayOfYear, SpaceTimePositions, day_of_year, space_code

EPOCH = date(1970, 1, 1)


def test_every_day_from_1970_to_2100_has_the_day_of_year_of_datetime():
    days = torch.arange((date(2100, 12, 31) - EPOCH).days + 1, dtype=torch.int32)
    expected = [(EPOCH + timedelta(number)).timetuple().tm_yday - 1 for number in days.tolist()]
    assert day_of_year(days).tolist() == expected


@given(st.dates())
def test_any_date_of_datetime_has_its_day_of_year(when):
    assert day_of_year(torch.tensor([(when - EPOCH).days])).item() == when.timetuple().tm_yday - 1


@pytest.mark.parametrize("year", [1972, 2000, 2400])
def test_leap_years_end_with_day_365(year):
    assert day_of_year(torch.tensor((date(year, 12, 31) - EPOCH).days)).item() == 365


@pytest.mark.parametrize("year", [1900, 2100, 2019])
def test_other_years_end_with_day_364(year):
    assert day_of_year(torch.tensor((date(year, 12, 31) - EPOCH).days)).item() == 364


def test_the_same_day_of_two_years_has_the_same_code():
    days = torch.tensor([[(date(2018, 6, 1) - EPOCH).days, (date(2019, 6, 1) - EPOCH).days]], dtype=torch.int32)
    first, second = DayOfYear(32)(days)[0]
    assert torch.equal(first, second)


def test_a_new_day_table_puts_neighbouring_days_next_to_each_other_also_at_new_year():
    table = torch.nn.functional.normalize(DayOfYear(64).table.detach(), dim=1)
    similarity = table @ table.T
    july, january = similarity[200], similarity[0]
    assert july[201] > july[215] > july[17]
    assert january[365] > january[14] > january[180]


@pytest.mark.parametrize("width", [7, 8])
def test_the_day_table_has_the_width_asked_for(width):
    assert DayOfYear(width).table.shape == (366, width)


def test_a_larger_grid_keeps_the_codes_of_a_smaller_one():
    small = space_code(3, 5, 16).reshape(3, 5, 16)
    large = space_code(7, 9, 16).reshape(7, 9, 16)
    assert torch.equal(large[:3, :5], small)


def test_every_place_of_a_32_x_32_grid_has_its_own_code():
    code = space_code(32, 32, 128)
    distance = torch.cdist(code, code) + torch.eye(1024) * 10
    assert distance.min() > 0.5


def test_turning_the_grid_swaps_the_halves_of_the_code():
    code = space_code(4, 6, 16).reshape(4, 6, 16)
    turned = space_code(6, 4, 16).reshape(6, 4, 16).transpose(0, 1)
    assert torch.equal(code, torch.cat([turned[..., 8:], turned[..., :8]], -1))


def test_a_width_that_is_no_multiple_of_four_is_refused():
    with pytest.raises(ArgumentError, match="width 30 is not a multiple of 4"):
        space_code(2, 2, 30)


def test_positions_add_the_place_of_the_patch_and_the_day_of_the_date():
    positions = SpaceTimePositions(8)
    days = torch.tensor([[17_000, 17_100]], dtype=torch.int32)
    code = positions(torch.zeros(1, 2, 6, 8), days, (2, 3))
    torch.testing.assert_close(code[0, 1, 4], space_code(2, 3, 8)[4] + positions.days(days)[0, 1])
