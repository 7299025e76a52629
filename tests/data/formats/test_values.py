"""Units and dates as all readers convert them."""

from pathlib import Path

import numpy as np
import pytest

from eokit.data.formats.dates import in_order, mid_summer, parse_day, product_days
from eokit.data.formats.values import as_decibel, decibel, store_decibel, with_ratio
from eokit.data.preprocessing import NODATA
from eokit.errors import DataError


def day(text):
    return int(np.datetime64(text).astype("datetime64[D]").astype(int))


def test_power_becomes_decibel_and_what_is_not_above_zero_nodata():
    power = np.array([1.0, 0.1, 1e-12, 0.0, -1.0, np.nan], np.float32).reshape(1, 1, 1, 6)
    stored, seen = store_decibel(decibel(power))
    assert stored.ravel().tolist() == [0, -2560, -30720, NODATA, NODATA, NODATA]
    assert seen


def test_a_power_keeps_within_half_a_thousandth():
    power = np.geomspace(1e-12, 10, 500).reshape(1, 1, 20, 25)
    stored, _ = store_decibel(decibel(power))
    assert np.abs(10 ** (stored / 2560) / power - 1).max() < 5e-4


def test_the_ratio_of_powers_is_the_difference_of_decibels():
    pair = np.random.default_rng(0).normal(-12, 3, (2, 2, 3, 3))
    power = 10 ** (pair / 10)
    np.testing.assert_allclose(10 ** (with_ratio(pair)[:, 2] / 10), power[:, 0] / power[:, 1])


@pytest.mark.parametrize("unit", ["dB", "linear"])
def test_the_unit_that_is_said_is_the_one_that_is_read(unit):
    pair = np.full((1, 2, 2, 2), -10.0 if unit == "dB" else 0.1)
    np.testing.assert_allclose(as_decibel(pair, unit, Path("x.tif")), -10, rtol=1e-6)


def test_decibels_of_which_none_is_below_zero_are_doubted():
    with pytest.raises(DataError, match=r"x\.tif: no radar value is below 0"):
        as_decibel(np.full((1, 2, 2, 2), 0.1), "dB", Path("x.tif"))
    assert np.isnan(as_decibel(np.full((1, 2, 2, 2), np.nan), "dB", Path("x.tif"))).all()


def test_days_come_from_the_first_time_in_a_product_name():
    names = [
        "S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200105T115419",
        "S1A_IW_GRDH_1SDV_20200103T170841_20200104T170906_030639_0382D5_360A",
    ]
    assert product_days(names).tolist() == [day("2020-01-02"), day("2020-01-03")]


@pytest.mark.parametrize("name", ["", "S2A_MSIL2A", "S2A_20201399T102421", "20200102"])
def test_a_name_without_a_date_is_an_error(name):
    with pytest.raises(ValueError, match="is no"):
        product_days([name])


@pytest.mark.parametrize("digits", ["2020010", "20200230", "2020-1-1", "yesterday"])
def test_what_is_no_day_is_an_error(digits):
    with pytest.raises(ValueError, match="is no date"):
        parse_day(digits)


def test_equal_days_keep_their_order():
    days, order = in_order(np.array([5, 3, 5, 3]))
    assert (days.tolist(), order.tolist()) == ([3, 3, 5, 5], [1, 3, 0, 2])
    assert in_order(np.array([3, 3, 5]))[1] is None


def test_an_image_without_a_day_is_of_the_summer_of_its_series():
    assert mid_summer(np.array([day("2019-12-30"), day("2020-01-02"), day("2020-11-02")])) == day("2020-07-01")
