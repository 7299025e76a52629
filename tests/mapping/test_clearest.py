"""Which date a picture shows of each scene."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from eokit.mapping.clearest import Look, clearest_dates, true_colour
from eokit.mapping.scene import Window
from tests.mapping.scenes import preprocessing

CROPS, HAZE, CLOUD, WINTER = (
    (300, 500, 400, 4000),
    (900, 1100, 1000, 4200),
    (6000, 6000, 6000, 6500),
    (100, 150, 120, 900),
)
UNSEEN = -32768
JANUARY, MAY, JUNE, JULY = 17_910, 18_030, 18_060, 18_090  # 2019


@dataclass
class Flat:
    """A scene that is flat in each band on each date: B02, B03, B04, B08."""

    days: dict
    dates: list
    name: str = "flat"
    height: int = 20
    width: int = 20
    bands: tuple[str, ...] = ("B02", "B03", "B04", "B08")
    preprocessing: object = field(init=False)

    def __post_init__(self):
        self.preprocessing = preprocessing(self.bands)

    def read(self, modality, window, dates=None):
        values = np.array(self.dates, np.int16)[:, : len(self.bands), None, None]
        return np.broadcast_to(values, (*values.shape[:2], window.height, window.width)).copy()


def look(dates, **options):
    """A look at a scene of these days and flat values."""
    days = {"s2": np.array(list(dates), np.int32)}
    scene = Flat(days, list(dates.values()), **options)
    return Look(scene, Window(0, 0, 20, 20), true_colour(scene))


@pytest.mark.parametrize("worse", [HAZE, CLOUD, WINTER, (UNSEEN,) * 4], ids=["haze", "cloud", "shadow", "nodata"])
def test_the_clear_date_is_shown(worse):
    assert clearest_dates([look({MAY: worse, JUNE: CROPS, JULY: worse})]) == [1]


def test_the_growing_season_is_shown_though_winter_is_as_clear():
    one = look({JANUARY: CROPS, JULY: HAZE})
    assert clearest_dates([one]) == [1]
    assert clearest_dates([one], south=True) == [0]


def test_a_series_of_winter_alone_is_shown_all_the_same():
    assert clearest_dates([look({JANUARY: WINTER})]) == [0]


def test_a_date_that_shows_half_of_the_pixels_is_not_clear():
    class Half(Flat):
        def read(self, modality, window, dates=None):
            values = super().read(modality, window, dates)
            values[0, :, :10] = UNSEEN
            return values

    scene = Half({"s2": np.array([MAY, JUNE], np.int32)}, [CROPS, HAZE])
    assert clearest_dates([Look(scene, Window(0, 0, 20, 20), true_colour(scene))]) == [1]


def test_scenes_share_a_date_that_is_nearly_as_clear_as_the_clearest_of_each():
    better, nearly = CROPS, (320, 500, 400, 4000)
    first, second = look({MAY: better, JUNE: nearly}), look({JUNE: nearly, JULY: better})
    assert clearest_dates([first, second]) == [1, 0]


def test_scenes_do_not_share_a_date_with_clouds_over_one_of_them():
    first, second = look({MAY: CROPS, JUNE: CROPS}), look({JUNE: CLOUD, JULY: CROPS})
    assert clearest_dates([first, second])[1] == 1


def test_without_infrared_the_date_without_clouds_is_shown():
    one = look({MAY: CLOUD, JUNE: CROPS, JULY: HAZE}, bands=("B02", "B03", "B04"))
    assert one.colour.infrared is None
    assert clearest_dates([one]) == [1]
