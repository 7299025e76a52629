"""Places of a SYNTHETIC season, cut out of its landscape, as sensors other than Sentinel see them too.

Called by the synthetic writers of data sets whose patches are smaller or finer than those of PASTIS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eokit.data.preprocessing import SOURCE_NODATA
from eokit.data.synthetic.landscape import MARGIN, PLACES, Season, View, draw_s1, draw_s2, draw_tile
from eokit.data.synthetic.noise import Array
from eokit.data.synthetic.spectra import WAVELENGTHS

FOLDS = (1, 1, 2, 3)
"""Folds that patches go to in turn: half train, a quarter validates, a quarter tests."""

SUMMER = (120, 260)
"""Days of the year in which images of one date are taken."""


class Optical(NamedTuple):
    """days: (T,) from 1 January of the harvest year. images: (T, 10, h, w) int16 reflectance x 10000.

    cloud: (T, h, w) float32, opacity 0..1.
    """

    days: NDArray[np.int32]
    images: NDArray[np.int16]
    cloud: Array


@dataclass(frozen=True)
class Scene:
    """One patch. number: its place in the data set. corner: easting and northing (m) of its upper left corner."""

    number: int
    fold: int
    view: View
    seed: tuple[int, ...]
    corner: tuple[float, float]
    epsg: int

    def rng(self, part: int) -> np.random.Generator:
        """The random numbers of one part of the patch."""
        return np.random.default_rng([*self.seed, part])

    @cached_property
    def s2(self) -> Optical:
        """The Sentinel-2 series."""
        days, images = draw_s2(self.view, self.rng(0))
        optics = self.view.tile.optics
        dates = np.flatnonzero(np.isin(optics.days, days))
        return Optical(days, images, optics.sky(self.view.window, dates)[0])

    def s1(self, orbit: str) -> tuple[NDArray[np.int32], Array]:
        """The days (T,) of an orbit and its images (T, 2, h, w) float32: VV, VH in dB."""
        days, images = draw_s1(self.view, orbit, self.rng(1 if orbit == "s1-asc" else 2))
        return days, images[:, :2].astype(np.float32)

    def clearest(self, count: int) -> NDArray[np.int64]:
        """Which `count` dates of `s2` are whole and least cloudy, in order."""
        seen = (self.s2.images > SOURCE_NODATA).all(axis=(1, 2, 3))
        luck = 0.05 * self.rng(6).random(len(self.s2.days))  # the clear ones are not the first of the season
        worth = np.where(seen, luck - self.s2.cloud.mean(axis=(1, 2)), -np.inf)
        return np.sort(np.argsort(-worth, kind="stable")[:count])

    def summer_image(self) -> tuple[int, NDArray[np.int16]]:
        """The clearest date of summer: its day, and (10, h, w) reflectance x 10000."""
        low, high = SUMMER
        seen = (self.s2.images > SOURCE_NODATA).all(axis=(1, 2, 3))
        off = np.maximum(low - self.s2.days, 0) + np.maximum(self.s2.days - high, 0)
        date = int(np.lexsort((self.s2.cloud.mean(axis=(1, 2)), off, ~seen))[0])
        return int(self.s2.days[date]), self.s2.images[date]


def draw_scenes(patches: int, size: int, seed: int, dates: tuple[int, int]) -> Iterator[Scene]:
    """`patches` places of `size` x `size` pixels of 10 m, apart from one another where they are small."""
    step = max(size, 24)
    season = Season(patches, step, seed, dates, ("s2", "s1-asc", "s1-des"), 3)
    number = 0
    for index in (one for one in range(len(PLACES)) if season.patches_of(one)):
        tile = draw_tile(season, index)
        for patch in range(season.patches_of(index)):
            y, x, _, _ = season.window(index, patch)
            y, x = y + (step - size) // 2, x + (step - size) // 2
            east, north = PLACES[index].corner
            corner = east + (x - MARGIN) * 10.0, north - (y - MARGIN) * 10.0
            view = View.of(tile, (y, x, size, size))
            yield Scene(number, FOLDS[number % 4], view, (seed, index, patch, 7), corner, PLACES[index].epsg)
            number += 1


def mix(images: NDArray, wavelengths: Sequence[float]) -> Array:
    """(..., 10, h, w) at the bands of Sentinel-2 to (..., C, h, w) at other wavelengths (nm), float32."""
    weights = np.array([np.interp(wavelengths, WAVELENGTHS, row) for row in np.eye(len(WAVELENGTHS))], np.float32)
    return np.einsum("...bhw,bc->...chw", images.astype(np.float32), weights)


def enlarge(maps: Array, size: int) -> Array:
    """(..., h, w) to (..., size, size), linear between the centres of the pixels."""
    length = maps.shape[-1]
    at = (np.arange(size) + 0.5) * length / size - 0.5
    rows = np.array([np.interp(at, np.arange(length), row) for row in np.eye(length)], np.float32)
    return np.einsum("...hw,hy,wx->...yx", maps.astype(np.float32), rows, rows, optimize=True)


def repeat(classes: NDArray, size: int) -> NDArray:
    """(h, w) class ids to (size, size), each pixel that of the one it lies in."""
    at = np.arange(size) * len(classes) // size
    return classes[np.ix_(at, at)]


def photograph(
    scene: Scene, wavelengths: Sequence[float], size: int, window: tuple[slice, slice] = (slice(None), slice(None))
) -> tuple[int, NDArray[np.uint8]]:
    """A sharp image of a summer day: its day and (C, size, size) uint8, brighter in the infrared, with texture.

    window: rows and columns of the scene that it shows.
    """
    day, image = scene.summer_image()
    bands = mix(image[:, *window], wavelengths)
    full = np.where(np.array(wavelengths) > 750, 5200, 2400)[:, None, None]
    texture = 1 + 0.12 * scene.rng(3).standard_normal((size, size), dtype=np.float32)
    return day, np.clip(255 * enlarge(bands / full, size) * texture, 0, 255).astype(np.uint8)
