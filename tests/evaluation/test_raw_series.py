"""What baselines learn from: raw series on a common grid of days, and moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eokit.data.sample import Series
from eokit.errors import DataError
from eokit.evaluation.raw_series import columns, common_grid, gather_pixels, moments, origin, resample
from eokit.tasks.features import Labels
from tests.evaluation.toy_data import VOID, ToyPlaces

LABELS = Labels("semantic", 4, VOID)


def one_pixel(values: list[float], valid: list[bool]) -> Series:
    n = len(values)
    return Series(
        torch.tensor(values).view(n, 1, 1, 1), torch.zeros(n, dtype=torch.int32), torch.tensor(valid).view(n, 1, 1), "s"
    )


def on_grid(values, valid, days, grid) -> list[float]:
    return resample(one_pixel(values, valid), np.array(days), np.array(grid), np.array([0]))[0].tolist()


def test_between_two_dates_the_series_is_a_line():
    assert on_grid([0.0, 10.0], [True, True], [0, 100], [0, 25, 100]) == [0, 2.5, 10]


def test_beyond_the_first_and_last_valid_date_the_series_is_held():
    assert on_grid([3.0, 5.0], [True, True], [10, 20], [0, 30]) == [3, 5]


def test_invalid_dates_are_bridged():
    assert on_grid([0.0, 99.0, 10.0], [True, False, True], [0, 40, 100], [40, 50]) == [4, 5]


def test_invalid_dates_at_the_ends_are_not_used():
    assert on_grid([99.0, 4.0, 99.0], [False, True, False], [0, 40, 100], [0, 40, 100]) == [4, 4, 4]


def test_a_pixel_never_seen_is_zero():
    assert on_grid([99.0, 99.0], [False, False], [0, 40], [0, 20, 80]) == [0, 0, 0]


def test_two_acquisitions_on_one_day_do_not_divide_by_zero():
    assert np.isfinite(on_grid([1.0, 3.0, 5.0], [True] * 3, [10, 10, 20], [0, 10, 15, 20])).all()


def test_pixels_are_interpolated_as_numpy_does():
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(9, 2, 4, 5)), rng.random((9, 4, 5)) < 0.6
    valid[0] = True
    days, grid = np.sort(rng.choice(200, 9, replace=False)), np.arange(-20, 220, 10)
    series = Series(torch.tensor(values), torch.zeros(9, dtype=torch.int32), torch.tensor(valid), "s")
    got = resample(series, days, grid, np.arange(20)).reshape(4, 5, len(grid), 2)
    for row, column, band in np.ndindex(4, 5, 2):
        seen = valid[:, row, column]
        expected = np.interp(grid, days[seen], values[seen, band, row, column])
        np.testing.assert_allclose(got[row, column, :, band], expected, rtol=1e-5, atol=1e-6)


def test_another_year_gives_the_same_columns():
    one, later = ToyPlaces(2), ToyPlaces(2, years=1)
    pixels = np.arange(256)
    assert common_grid(one.seasons()) == common_grid(later.seasons())
    grid = common_grid(one.seasons())
    np.testing.assert_array_equal(columns(one[0], grid, pixels), columns(later[0], grid, pixels))


def test_a_season_over_new_year_counts_from_the_year_of_its_middle():
    autumn_to_autumn = np.array(["2018-09-17", "2019-05-01", "2019-10-20"], "datetime64[D]").astype(int)
    assert origin([autumn_to_autumn]) == np.datetime64("2019-01-01", "D").astype(int)


def test_pixels_to_learn_from_are_labelled_and_as_many_as_asked_for():
    places = ToyPlaces(6)
    pixels = gather_pixels(places, LABELS, common_grid(places.seasons()), "series", most=600, quiet=True)
    assert len(pixels.labels) == 600
    assert VOID not in pixels.labels


def test_series_on_another_grid_than_the_labels_are_refused():
    places = ToyPlaces(1)
    places.samples[0] = replace(places.samples[0], targets={"semantic": torch.zeros(8, 8, dtype=torch.long)})
    with pytest.raises(DataError, match=r"s2 has \(16, 16\) pixels, the labels \(8, 8\)"):
        gather_pixels(places, LABELS, common_grid(places.seasons()), "series", quiet=True)


def test_moments_are_those_of_valid_pixels_over_time_and_space():
    sample = ToyPlaces(1)[0]
    one = sample.series["s2"]
    one.valid[1:] = False
    one.valid[0, :, 8:] = False
    one.values[1:] = 1e6
    seen = one.values[0, :, :, :8].numpy().reshape(10, -1)
    np.testing.assert_allclose(moments(sample), np.concatenate([seen.mean(1), seen.std(1)]), rtol=1e-5)


def test_moments_of_a_sample_never_seen_are_zero():
    sample = ToyPlaces(1)[0]
    sample.series["s2"].valid[:] = False
    assert not moments(sample).any()
