"""Dates and bands in file names and tags."""

from __future__ import annotations

from datetime import date

import pytest

from eokit.errors import DataError
from eokit.mapping.names import band_of, date_of, days_since_epoch, without_band

S2 = ("B01", "B02", "B08", "B8A", "B11")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20200113.tif", date(2020, 1, 13)),
        ("Boadella_2020-01-13.tif", date(2020, 1, 13)),
        ("field_2020_01_13_v2.tif", date(2020, 1, 13)),
        ("x.2020.01.13.tif", date(2020, 1, 13)),
        ("scene_20200113104321.tif", date(2020, 1, 13)),
        ("S2A_MSIL2A_20200113T104321_N0213_R008_T31TFJ_20200114T121212.tif", date(2020, 1, 13)),
        ("T31TFJ_20200113T104321_B02_10m.tif", date(2020, 1, 13)),
        ("S1A_IW_GRDH_1SDV_20200113T055512_20200114T055537_030784_038823_1A2B.tif", date(2020, 1, 13)),
        ("LC08_L2SP_198030_20200113_20200823_02_T1_SR.tif", date(2020, 1, 13)),
        ("MOD09A1.A2020013.h18v04.tif", date(2020, 1, 13)),
        ("2020013.tif", date(2020, 1, 13)),
        ("composite_20200113_20200113.tif", date(2020, 1, 13)),
    ],
)
def test_a_name_tells_its_date(name, expected):
    assert date_of(name) == expected


@pytest.mark.parametrize(
    "name", ["mosaic.tif", "20201341.tif", "19500101.tif", "tile_1234567890.tif", "2020366x2019365.tif", "2020-01.tif"]
)
def test_a_name_without_a_plausible_date_tells_none(name):
    assert date_of(name) is None


def test_the_thirtieth_of_february_is_no_date():
    assert date_of("20200230.tif") is None


def test_two_dates_in_an_unknown_name_are_refused_with_both():
    with pytest.raises(DataError, match=r"2020-01-01, 2020-01-31"):
        date_of("composite_20200101_20200131.tif")


def test_tags_settle_a_name_with_two_dates():
    assert date_of("c_20200101_20200131.tif", {"ACQUISITION_DATE": "2020-01-16"}) == date(2020, 1, 16)


@pytest.mark.parametrize(
    "tags",
    [
        {"TIFFTAG_DATETIME": "2020:01:13 10:43:21"},
        {"ACQUISITION_DATE": "2020-01-13"},
        {"acquisitiondatetime": "2020-01-13T10:43:21Z"},
        {"TIFFTAG_DATETIME": "2021:05:05 00:00:00", "SENSING_TIME": "2020-01-13T10:43:21.024Z"},
    ],
)
def test_tags_tell_the_date_where_the_name_does_not(tags):
    assert date_of("mosaic.tif", tags) == date(2020, 1, 13)


def test_the_name_wins_over_the_day_the_file_was_written():
    assert date_of("20200113.tif", {"TIFFTAG_DATETIME": "2024:05:05 00:00:00"}) == date(2020, 1, 13)


def test_days_count_from_1970():
    assert days_since_epoch(date(1970, 1, 2)) == 1


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B02", "B02"),
        ("b2", "B02"),
        ("B8A", "B8A"),
        ("B8", "B08"),
        ("B11 (SWIR 1)", "B11"),
        ("T31TFJ_20200113T104321_B02_10m", "B02"),
        ("2020-01-13-B08", "B08"),
        ("blue", None),
        (None, None),
        ("B02 minus B08", None),
    ],
)
def test_a_description_names_a_band(text, band):
    assert band_of(text, S2) == band


def test_polarisations_and_their_ratio_are_told_apart():
    sentinel_1 = ("VV", "VH", "VV-VH")
    assert [band_of(text, sentinel_1) for text in ("vv", "VH", "VV-VH")] == ["VV", "VH", "VV-VH"]


def test_files_of_one_image_have_one_name_without_their_band():
    names = {without_band(f"T31TFJ_20200113T104321_{band}_10m", band) for band in ("B02", "B08")}
    assert len(names) == 1
