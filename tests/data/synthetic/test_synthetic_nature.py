"""What the synthetic season looks like: crops, soil, radar, clouds behave as they do outdoors."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from eokit.data.preprocessing import SOURCE_NODATA as NODATA
from eokit.data.synthetic.calendar import COVERS, CROPS, FIRST_CROP
from eokit.data.synthetic.fields import FieldStyle, Ground, draw_fields
from eokit.data.synthetic.landscape import PLACES, Season, View, draw_s1, draw_s2, draw_tile
from eokit.data.synthetic.noise import SmoothField
from eokit.data.synthetic.phenology import canopy, draw_covers, draw_surfaces
from eokit.data.synthetic.radar import backscatter
from eokit.data.synthetic.spectra import BANDS, LEAF, Pixels, curve, reflectance
from eokit.data.synthetic.weather import REACH, draw_optics, draw_wetness

WHEAT, CORN, MEADOW, RAPESEED = (FIRST_CROP + class_id - 1 for class_id in (2, 3, 1, 5))
RED, INFRARED, BLUE, SHORTWAVE = (BANDS.index(name) for name in ("B04", "B08", "B02", "B11"))


def typical(cover, days, drought=0.0, parcels=40):
    """Green and brown leaf area of a cover, averaged over parcels."""
    surfaces = draw_surfaces(np.random.default_rng(0), np.full(parcels, cover), 0.0)
    plants = canopy(surfaces, days, drought)
    return plants.green.mean(0), plants.brown.mean(0)


def look(green, brown=0.0, flower=0.0, cover=WHEAT, wetness=0.0):
    """Ten-band reflectance of one pixel."""
    area = [np.full((1, 1, 1), value, dtype=np.float32) for value in (green, brown, flower)]
    ground = curve("soil")[:, None, None]
    pixels = Pixels(*area, np.full((1, 1), cover), np.ones((1, 1), np.float32), ground)
    return reflectance(pixels, np.array([wetness], dtype=np.float32))[0, :, 0, 0]


def ndvi(spectrum):
    return (spectrum[INFRARED] - spectrum[RED]) / (spectrum[INFRARED] + spectrum[RED])


def echo(biomass, wetness=0.35, cover=CORN):
    """Mean VV and VH in linear power over many speckled pixels."""
    pixels = np.full((1, 64, 64), biomass, dtype=np.float32)
    wet, flat = np.array([wetness], dtype=np.float32), np.zeros((64, 64), np.float32)
    image = backscatter(pixels, np.full((64, 64), cover), wet, flat, np.random.default_rng(0))
    return (10 ** (image[0, :2] / 10)).mean(axis=(1, 2))


@pytest.fixture(scope="module")
def land():
    return draw_fields(np.random.default_rng(0), (200, 220), FieldStyle())


def test_winter_wheat_is_greenest_before_corn_is():
    days = np.arange(0, 310)
    wheat, corn = (typical(cover, days)[0] for cover in (WHEAT, CORN))
    assert days[np.argmax(wheat)] < 170 < 190 < days[np.argmax(corn)]


def test_winter_crops_are_green_in_winter_and_summer_crops_are_not():
    winter = np.arange(20, 60)
    assert typical(RAPESEED, winter)[0].mean() > 0.8 > 0.5 > typical(CORN, winter)[0].mean()


def test_cereals_turn_to_straw_before_the_harvest_and_to_stubble_after():
    green, brown = typical(WHEAT, np.array([130, 190, 215]))
    assert green[0] > 3 > green[1]
    assert brown[1] > 1 > brown[2] > 0.2


def test_a_dry_summer_takes_leaves_from_a_meadow():
    assert typical(MEADOW, np.array([212]), drought=0.9)[0] < 0.75 * typical(MEADOW, np.array([212]))[0]


def test_ndvi_grows_with_leaf_area():
    values = [ndvi(look(area)) for area in (0, 0.5, 1, 2, 4, 7)]
    assert all(low < high for low, high in pairwise(values))
    assert values[0] < 0.3
    assert values[-1] > 0.8


def test_green_leaves_have_a_red_edge_and_a_water_dip():
    spectrum = dict(zip(BANDS, look(6.0), strict=True))
    assert spectrum["B04"] < spectrum["B03"] < spectrum["B05"] < spectrum["B06"] < spectrum["B07"]
    assert spectrum["B8A"] > spectrum["B11"] > spectrum["B12"]


def test_soil_rises_with_wavelength_and_darkens_when_wet():
    dry, wet = look(0.0), look(0.0, wetness=1.0)
    assert (np.diff(dry[: BANDS.index("B11") + 1]) > 0).all()
    assert (wet < 0.7 * dry).all()


def test_flowering_rapeseed_is_yellow():
    plain, flowering = look(4.0, cover=RAPESEED), look(4.0, flower=0.6, cover=RAPESEED)
    more = flowering - plain
    assert more[BANDS.index("B03")] > 4 * more[BLUE] > 0
    assert more[RED] > 4 * more[BLUE]


def test_every_crop_has_a_leaf_of_its_own():
    assert len(np.unique(LEAF[FIRST_CROP:].round(5), axis=0)) > 14
    assert [cover.class_id for cover in COVERS[FIRST_CROP:]] == list(range(1, 19))


def test_vh_grows_with_the_biomass_of_corn():
    powers = [echo(biomass)[1] for biomass in (0.0, 1.0, 2.0, 4.0)]
    assert all(low < high for low, high in pairwise(powers))


def test_cereal_stalks_hide_the_soil_from_the_radar():
    assert (echo(4.0, cover=WHEAT) < 0.9 * echo(0.0, cover=WHEAT)).all()


def test_wet_soil_is_brighter_in_the_radar():
    assert (echo(0.0, wetness=0.9) > 1.5 * echo(0.0, wetness=0.1)).all()


def test_speckle_has_about_the_looks_of_a_ground_range_product():
    pixels, flat = np.zeros((1, 200, 200), np.float32), np.zeros((200, 200), np.float32)
    wet = np.array([0.35], np.float32)
    image = backscatter(pixels, np.full((200, 200), CORN), wet, flat, np.random.default_rng(1))
    power = 10 ** (image[0, 0] / 10)
    assert 3.5 < power.mean() ** 2 / power.var() < 5.5  # 4.4 is what Sentinel-1 IW GRD has


def test_all_crops_occur_with_a_long_tail():
    covers = draw_covers(np.random.default_rng(0), 600, tilt=0.0)[FIRST_CROP:]
    counts = np.bincount(covers, minlength=len(COVERS))[FIRST_CROP:]
    assert (counts > 0).all()
    assert counts[MEADOW - FIRST_CROP] > 5 * counts.min()
    assert len(CROPS) == 18


def test_fields_differ_in_size_and_leave_room_for_background(land):
    sizes = np.bincount(land.parcel.ravel())[1:]
    assert np.percentile(sizes, 90) > 4 * np.percentile(sizes, 10)
    assert 80 < sizes.mean() < 300
    assert 0.3 < (land.parcel > 0).mean() < 0.85
    assert {Ground.MARGIN, Ground.BROADLEAF, Ground.WATER, Ground.BUILT} <= set(np.unique(land.ground).tolist())


def test_a_window_of_a_smooth_field_is_a_part_of_the_whole():
    field = SmoothField.draw(np.random.default_rng(0), (90, 70), (30.0, 7.0))
    whole = field.window((0, 0, 90, 70))
    np.testing.assert_allclose(field.window((33, 21, 40, 40)), whole[33:73, 21:61], atol=1e-5)
    assert 0.5 < whole.std() < 1.6


def test_shadows_lie_where_the_sun_throws_them():
    optics = draw_optics(np.random.default_rng(0), (64, 64), (30, 30), 46.5, 10)
    down, right = optics.shift.T
    assert (down < 0).all()  # the morning sun stands in the south-east: shadows fall to the north-west
    assert (right < 0).all()
    assert np.abs(optics.shift).max() <= REACH


def test_many_dates_are_clear_and_some_are_overcast():
    cover = np.concatenate(
        [draw_optics(np.random.default_rng(seed), (32, 32), (50, 60), 46.5, 10).cover for seed in range(12)]
    )
    assert (cover < 0.05).mean() > 0.35
    assert (cover > 0.8).mean() > 0.03


def test_rain_wets_the_soil_and_sun_dries_it():
    wetness = draw_wetness(np.random.default_rng(0))
    assert ((wetness >= 0) & (wetness <= 1)).all()
    assert wetness.std() > 0.1


def test_clouds_are_bright_in_blue_and_shadows_dark():
    season = Season(4, 96, 1, (40, 50), ("s2",), 5)
    tile = draw_tile(season, 0)
    view = View.of(tile, season.window(0, 0))
    days, images = draw_s2(view, np.random.default_rng(0))
    dates = np.flatnonzero(np.isin(tile.optics.days, days))
    cloud, shadow = tile.optics.sky(view.window, dates)
    blue = images[:, BLUE].astype(float)
    clear = (cloud < 0.01) & (shadow < 0.01) & (images[:, 0] != NODATA)
    assert np.median(blue[cloud > 0.8]) > 4 * np.median(blue[clear])
    assert np.median(images[:, INFRARED][(cloud < 0.01) & (shadow > 0.8)]) < 0.7 * np.median(images[:, INFRARED][clear])


def test_fields_go_on_over_the_border_of_a_patch():
    season = Season(8, 48, 0, (2, 2), ("s2",), 5)
    tile = draw_tile(season, 0)
    left, right = (View.of(tile, season.window(0, patch)) for patch in (0, 1))
    shared = set(left.rows[np.unique(left.row[:, -1])]) & set(right.rows[np.unique(right.row[:, 0])])
    assert [row for row in shared if row >= FIRST_CROP]


def test_a_patch_does_not_depend_on_those_drawn_before():
    season = Season(4, 32, 5, (6, 8), ("s1-asc",), 5)
    views = [View.of(draw_tile(season, 1), season.window(1, patch)) for patch in (0, 1)]
    draw_s1(views[0], "s1-asc", np.random.default_rng(0))
    after = draw_s1(views[1], "s1-asc", np.random.default_rng(9))[1]
    draw_tile.cache_clear()
    alone = draw_s1(View.of(draw_tile(season, 1), season.window(1, 1)), "s1-asc", np.random.default_rng(9))[1]
    np.testing.assert_array_equal(after, alone)


def test_the_edge_of_a_swath_leaves_pixels_without_data(season):
    whole = sum(int((np.load(file) == NODATA).sum()) for file in (season / "DATA_S2").iterdir())
    assert whole
    for file in (season / "DATA_S2").iterdir():
        missing = np.load(file) == NODATA
        assert (missing.all(axis=1) == missing.any(axis=1)).all()  # in all bands or in none
        assert not missing.all(axis=(1, 2, 3)).any()  # a date that shows nothing is not listed


def test_the_south_is_earlier_than_the_north():
    assert PLACES[1].latitude < PLACES[0].latitude
    assert PLACES[1].season_shift < PLACES[0].season_shift


def test_reflectances_are_those_of_farm_land(season):
    norm = json.loads((season / "NORM_S2_patch.json").read_text())
    mean = np.mean([fold["mean"] for fold in norm.values()], axis=0)
    assert 600 < mean[BLUE] < 3000
    assert mean[INFRARED] > 1.5 * mean[RED]
    assert mean[INFRARED] > mean[SHORTWAVE]
