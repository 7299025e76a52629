"""One SYNTHETIC tile: its land, its parcels, its weather, and the images of any window of it.

Called by the writer of the PASTIS layout. A tile is drawn from (seed, number) alone and a patch from (seed, tile,
patch), so that neither the order nor the number of workers changes a byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eokit.data.preprocessing import SOURCE_NODATA
from eokit.data.synthetic.calendar import COVERS, FIRST_CROP
from eokit.data.synthetic.fields import Fields, FieldStyle, Ground, draw_fields
from eokit.data.synthetic.noise import Array, SmoothField, Window
from eokit.data.synthetic.phenology import Surfaces, canopy, draw_covers, draw_surfaces
from eokit.data.synthetic.radar import backscatter
from eokit.data.synthetic.spectra import BANDS, COARSE, Pixels, curve, reflectance
from eokit.data.synthetic.weather import FIRST_DAY, Optics, draw_optics, draw_radar_days, draw_wetness

MARGIN = 64
"""Pixels of land around the patches, so that parcels at the outer border have their whole area."""

DATES_AT_ONCE = 6
"""Dates drawn together: few enough for the caches, enough to spare Python."""

ORBITS = ("s1-asc", "s1-des")


@dataclass(frozen=True)
class Place:
    """A region: its Sentinel-2 tile, UTM zone, the corner (m) of the synthetic land in it, its climate and fields."""

    tile: str
    epsg: int
    corner: tuple[float, float]
    latitude: float
    season_shift: float
    drought: float
    style: FieldStyle


PLACES = (
    Place("t31tfm", 32631, (640000.0, 5160000.0), 46.5, 3.0, 0.35, FieldStyle()),
    Place("t31tfj", 32631, (640000.0, 4860000.0), 43.9, -9.0, 0.9, FieldStyle(width=11.0, stretch=1.6, woods=0.17)),
)
"""Two of the four tiles of PASTIS: Burgundy and the lower Rhone. The land in them is invented."""


@dataclass(frozen=True)
class Season:
    """The settings of a synthetic season, as in `write_synthetic_pastis`."""

    patches: int
    size: int
    seed: int
    dates: tuple[int, int]
    modalities: tuple[str, ...]
    folds: int

    def patches_of(self, tile: int) -> int:
        """How many of the patches lie in tile number `tile`."""
        return self.patches // len(PLACES) + (tile < self.patches % len(PLACES))

    def grid(self, tile: int) -> tuple[int, int]:
        """Rows and columns of the patches of a tile, about square."""
        columns = math.ceil(math.sqrt(self.patches_of(tile)))
        return math.ceil(self.patches_of(tile) / columns), columns

    def window(self, tile: int, patch: int) -> Window:
        """The pixels of a patch in its tile's landscape; rows run to and fro, so that one patch adjoins the next."""
        _, columns = self.grid(tile)
        row, column = divmod(patch, columns)
        column = columns - 1 - column if row % 2 else column
        return MARGIN + row * self.size, MARGIN + column * self.size, self.size, self.size


@dataclass(frozen=True)
class Tile:
    """A landscape, what stands on it and its weather.

    row: (H, W) the surface of each pixel. area, centre: pixels, and (y, x), of each surface. slope: (S, 2) change of
    vigour per pixel. texture: vigour within fields. tone: brightness of the soil.
    """

    place: Place
    fields: Fields
    row: NDArray[np.int32]
    area: NDArray[np.int64]
    centre: Array
    slope: Array
    surfaces: Surfaces
    texture: SmoothField
    tone: SmoothField
    wetness: Array
    optics: Optics
    radar_days: dict[str, NDArray[np.int32]]


@lru_cache(maxsize=len(PLACES))
def draw_tile(season: Season, number: int) -> Tile:
    """The tile `number` of a season."""
    place = PLACES[number]
    rows, columns = season.grid(number)
    shape = (rows * season.size + 2 * MARGIN, columns * season.size + 2 * MARGIN)
    land, crops, sky, radar = (np.random.default_rng([season.seed, number, part]) for part in range(4))

    fields = draw_fields(land, shape, place.style)
    row = np.where(fields.parcel > 0, fields.parcel + FIRST_CROP - 1, fields.ground.astype(np.int32) - 1)
    area = np.bincount(row.ravel(), minlength=FIRST_CROP + fields.parcels)
    y, x = np.indices(shape, dtype=np.float32)
    centre = np.stack([np.bincount(row.ravel(), axis.ravel(), len(area)) / np.maximum(area, 1) for axis in (y, x)], 1)
    cover = draw_covers(crops, fields.parcels, tilt=0.3)
    slope = 0.14 * crops.standard_normal((len(area), 2)) / np.sqrt(np.maximum(area, 1))[:, None]
    slope[:FIRST_CROP] = 0
    return Tile(
        place=place,
        fields=fields,
        row=row.astype(np.int32),
        area=area,
        centre=centre.astype(np.float32),
        slope=slope.astype(np.float32),
        surfaces=draw_surfaces(crops, cover, place.season_shift + 4 * crops.standard_normal()),
        texture=SmoothField.draw(land, shape, (28.0, 9.0, 3.0), falloff=0.7),
        tone=SmoothField.draw(land, shape, (110.0, 30.0, 10.0), falloff=0.55),
        wetness=draw_wetness(sky),
        optics=draw_optics(sky, shape, season.dates, place.latitude, len(BANDS)),
        radar_days={orbit: draw_radar_days(radar, round(1.15 * season.dates[1])) for orbit in ORBITS},
    )


@dataclass(frozen=True)
class View:
    """A window of a tile: row (h, w) into the few surfaces that occur in it, and vigour (h, w) of each pixel."""

    tile: Tile
    window: Window
    rows: NDArray[np.integer]
    row: NDArray[np.integer]
    vigour: Array

    @classmethod
    def of(cls, tile: Tile, window: Window) -> View:
        """The view of `window`."""
        y0, x0, height, width = window
        part = tile.row[y0 : y0 + height, x0 : x0 + width]
        rows, row = np.unique(part, return_inverse=True)
        row = row.reshape(part.shape)
        y, x = np.indices(part.shape, dtype=np.float32)
        centre, slope = tile.centre[rows][row], tile.slope[rows][row]
        gradient = (y + y0 - centre[..., 0]) * slope[..., 0] + (x + x0 - centre[..., 1]) * slope[..., 1]
        return cls(tile, window, rows, row, np.clip(1 + gradient + 0.13 * tile.texture.window(window), 0.3, 1.9))

    @property
    def cover(self) -> NDArray[np.int64]:
        """The cover of each pixel, a row of `calendar.COVERS`."""
        return self.tile.surfaces.cover[self.rows][self.row]

    @property
    def tint(self) -> Array:
        """How pale the leaves of each pixel are: (h, w), 1 the usual."""
        return self.tile.surfaces.tint[self.rows][self.row]

    def leaf_area(self, days: NDArray[np.integer]) -> tuple[Array, Array, Array]:
        """Green, brown and flower of each pixel, each (T, h, w)."""
        plants = canopy(self.tile.surfaces.take(self.rows), days, self.tile.place.drought)
        green, brown, flower = (part.T[:, self.row] for part in plants)
        return green * self.vigour, brown * self.vigour, flower


def draw_s2(view: View, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """The days (T,) on which the view was seen, and its images (T, 10, h, w) int16, reflectance x 10000."""
    optics = view.tile.optics
    dates = np.flatnonzero(optics.seen(view.window).any(axis=(1, 2)))
    ground = _ground(view, rng)
    stored = np.empty((len(dates), *ground.shape), dtype=np.int16)
    for start in range(0, len(dates), DATES_AT_ONCE):
        stored[start : start + DATES_AT_ONCE] = _see(view, dates[start : start + DATES_AT_ONCE], ground, rng)
    return optics.days[dates], stored


def _see(view: View, dates: NDArray[np.intp], ground: Array, rng: np.random.Generator) -> NDArray[np.int16]:
    """The images (t, 10, h, w) of some passes: sharp surface, sensor blur, shadows, haze, clouds, noise, swath edge."""
    tile, optics = view.tile, view.tile.optics
    days = optics.days[dates]
    image = reflectance(Pixels(*view.leaf_area(days), view.cover, view.tint, ground), tile.wetness[days - FIRST_DAY])
    image = _blur(image)
    cloud, shadow = (part[:, None] for part in optics.sky(view.window, dates))
    image *= optics.gain[dates][:, :, None, None] * (1 - curve("shade")[:, None, None] * shadow)
    image += (optics.haze[dates, None] * curve("haze"))[:, :, None, None]
    bright = curve("cloud")[:, None, None] * (0.6 + 0.5 * cloud) * optics.brightness[dates][:, None, None, None]
    image += (bright - image) * cloud
    image += (0.0025 + 0.018 * image) * rng.standard_normal(image.shape, dtype=np.float32)
    stored = np.rint(image * np.float32(10000)).astype(np.int16)
    return np.where(optics.seen(view.window)[dates][:, None], stored, np.int16(SOURCE_NODATA))


def draw_s1(view: View, orbit: str, rng: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """The days (T,) of an orbit and its images (T, 3, h, w) float16: VV, VH, VV - VH in dB."""
    tile = view.tile
    days = tile.radar_days[orbit]
    green, brown, _ = view.leaf_area(days)
    roughness = tile.surfaces.roughness[view.rows]
    roughness = (roughness + 0.5 * rng.standard_normal(len(roughness), dtype=np.float32))[view.row]  # look direction
    hard = np.isin(view.cover, (Ground.WATER - 1, Ground.BUILT - 1))
    roughness += np.where(hard, 2.5, 0.3) * rng.standard_normal(roughness.shape)
    wetness = tile.wetness[days - FIRST_DAY] + (0.06 if orbit == "s1-des" else 0.0)  # dew in the morning pass
    image = backscatter(green + 0.35 * brown, view.cover, wetness.astype(np.float32), roughness.astype(np.float32), rng)
    return days, image.astype(np.float16)


def _ground(view: View, rng: np.random.Generator) -> Array:
    """Dry reflectance of the ground of a view (10, h, w): soils differ in brightness and tint, roofs one by one."""
    tone = 0.16 * view.tile.tone.window(view.window)
    bright = view.tile.surfaces.soil[view.rows][view.row] * np.exp(tone)
    tint = np.linspace(-0.5, 0.5, len(BANDS), dtype=np.float32)[:, None, None] * tone
    ground = curve("soil")[:, None, None] * bright * (1 - 0.6 * tint)
    roofs = np.exp(0.28 * rng.standard_normal(tone.shape, dtype=np.float32))
    built, water = view.cover == Ground.BUILT - 1, view.cover == Ground.WATER - 1
    ground = np.where(built, curve("built")[:, None, None] * roofs, ground)
    return np.where(water, curve("water")[:, None, None], ground).astype(np.float32)


def _blur(image: Array) -> Array:
    """A separable three-tap blur of the last two axes: the point spread of the sensor, wider for its 20 m bands."""
    side = np.where(COARSE, 0.29, 0.1).astype(np.float32)[:, None, None]
    for axis in (-1, -2):
        lines = np.moveaxis(image, axis, -1)
        blurred = lines * (1 - 2 * side)
        wings = lines * side
        blurred[..., 1:] += wings[..., :-1]
        blurred[..., :-1] += wings[..., 1:]
        blurred[..., 0] += wings[..., 0]
        blurred[..., -1] += wings[..., -1]
        image = np.moveaxis(blurred, -1, axis)
    return image


def class_of(cover: NDArray[np.int64]) -> NDArray[np.uint8]:
    """PASTIS class ids of covers."""
    return np.array([one.class_id for one in COVERS], dtype=np.uint8)[cover]
