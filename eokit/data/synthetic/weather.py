"""When a SYNTHETIC tile is seen, and through what: acquisition dates, rain, clouds with their shadows, swath edges.

Days count from 1 January of the harvest year, as in `calendar`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from eokit.data.synthetic.noise import Array, SmoothField, Window
from eokit.errors import ArgumentError

FIRST_DAY, LAST_DAY = -112, 318
"""The season of PASTIS: from about 10 September 2018 to mid November 2019."""

REPEAT_S2 = 5
"""Days between two passes of Sentinel-2 A or B over one orbit."""

REPEAT_S1 = 6
"""Days between two passes of Sentinel-1 A or B over one orbit; 12 where one of them is not switched on."""

REACH = 320
"""Pixels by which a shadow may lie beside its cloud; the cloud fields reach so far over the landscape's border."""

_UTC_HOUR_ANGLE = np.deg2rad(-22.5)
"""Sentinel-2 passes at 10:30 local solar time."""


def draw_wetness(rng: np.random.Generator) -> Array:
    """Wetness of the top soil, 0..1, for every day from FIRST_DAY to LAST_DAY: rain that dries, faster in summer."""
    days = np.arange(FIRST_DAY, LAST_DAY + 1)
    summer = 0.5 - 0.5 * np.cos(2 * np.pi * (days - 15) / 365)
    rain = np.where(rng.random(len(days)) < 0.38 - 0.16 * summer, rng.gamma(1.2, 0.22, len(days)), 0.0)
    wetness, level = np.empty(len(days)), 0.3
    for day, keep in enumerate(0.93 - 0.12 * summer):
        level = min(1.0, keep * level + rain[day])
        wetness[day] = level
    return wetness.astype(np.float32)


@dataclass(frozen=True)
class Optics:
    """The Sentinel-2 passes over a tile; arrays are (T,).

    cover: cloud fraction. opacity: of a cloud's core. softness: of its edge.
    brightness: of its top, 1 the usual. shift: (T, 2) pixels (rows, columns) from
    a cloud to its shadow. edge: pixel column (at row 0) where the swath ends, inf where it covers the tile. haze: path
    reflectance at 440 nm. gain: (T, 10) error left by the atmospheric correction.
    """

    days: NDArray[np.int32]
    cover: Array
    opacity: Array
    softness: Array
    brightness: Array
    shift: NDArray[np.int32]
    edge: Array
    haze: Array
    gain: Array
    clouds: SmoothField

    def seen(self, window: Window) -> NDArray[np.bool_]:
        """Pixels of `window` inside the swath: (T, h, w) bool."""
        y0, x0, height, width = window
        slant = np.float32(0.21)  # orbits lean about 12 degrees from north
        column = np.arange(x0, x0 + width)[None, :] + slant * np.arange(y0, y0 + height)[:, None]
        return column < self.edge[:, None, None]

    def sky(self, window: Window, dates: NDArray[np.integer]) -> tuple[Array, Array]:
        """Cloud opacity and shadow depth on `dates` (t,) over `window`: two (t, h, w) arrays, 0..1."""
        y0, x0, height, width = window
        cloud, shadow = np.empty((2, len(dates), height, width), dtype=np.float32)
        for out, date in enumerate(dates):
            dy, dx = self.shift[date]
            cloud[out] = self._opacity(int(date), (y0 + REACH, x0 + REACH, height, width))
            shadow[out] = self._opacity(int(date), (y0 + REACH - dy, x0 + REACH - dx, height, width))
        return cloud, shadow

    def _opacity(self, date: int, window: Window) -> Array:
        threshold = NormalDist().inv_cdf(min(max(1 - float(self.cover[date]), 1e-4), 1 - 1e-4))
        depth = (self.clouds.only(date).window(window) - np.float32(threshold)) / self.softness[date] + np.float32(0.5)
        depth = np.clip(depth, 0, 1)
        return self.opacity[date] * depth * depth * (3 - 2 * depth)


def draw_optics(
    rng: np.random.Generator, shape: tuple[int, int], dates: tuple[int, int], latitude: float, bands: int
) -> Optics:
    """Sentinel-2 passes over a landscape of `shape` pixels; every patch sees dates[0] to dates[1] of them."""
    days, beside = _optical_days(rng, dates)
    count = len(days)
    cover = _cloud_cover(rng, days)
    thin = rng.random(count) < 0.2
    height = rng.uniform(500, 1800, count)
    elevation, azimuth = _sun(days, latitude)
    length = np.minimum(height / np.tan(elevation) / 10, REACH - 1)
    shift = np.stack([length * np.cos(azimuth), -length * np.sin(azimuth)], axis=1)  # north is up: rows run south
    edge = np.where(beside, shape[1] * rng.uniform(0.4, 0.7) + 14 * rng.standard_normal(count), np.inf)
    return Optics(
        days=days.astype(np.int32),
        cover=cover.astype(np.float32),
        opacity=np.where(thin, rng.uniform(0.1, 0.4, count), rng.uniform(0.85, 1.0, count)).astype(np.float32),
        softness=np.where(thin, 2.2, rng.uniform(0.35, 1.1, count)).astype(np.float32),
        brightness=rng.uniform(0.75, 1.5, count).astype(np.float32),
        shift=np.rint(shift).astype(np.int32),
        edge=edge.astype(np.float32),
        haze=rng.gamma(1.5, 0.006, count).astype(np.float32),
        gain=(
            1 + 0.03 * rng.standard_normal((count, 1), dtype=np.float32)
            + 0.012 * rng.standard_normal((count, bands), dtype=np.float32)
        ),
        clouds=SmoothField.draw(
            rng, (shape[0] + 2 * REACH, shape[1] + 2 * REACH), (90.0, 40.0, 18.0, 8.0), falloff=0.55, count=(count,)
        ),
    )  # fmt: skip


def draw_radar_days(rng: np.random.Generator, count: int) -> NDArray[np.int32]:
    """About `count` days of one Sentinel-1 orbit: every 6 days, or 12 where that is enough, a few missing."""
    span = LAST_DAY - FIRST_DAY
    repeat = 2 * REPEAT_S1 if count <= span // (2 * REPEAT_S1) else REPEAT_S1
    days = np.arange(FIRST_DAY + int(rng.integers(repeat)), LAST_DAY + 1, repeat)
    count = min(count, len(days) - int(rng.integers(1, 4)))
    if count < len(days) // 2:  # a short series is spread over the season, not drawn at random
        return days[np.unique(np.linspace(0, len(days) - 1, count).astype(int))].astype(np.int32)
    return np.sort(rng.choice(days, count, replace=False)).astype(np.int32)


def _optical_days(rng: np.random.Generator, dates: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The sorted days of a tile's passes, and which of them are of the next orbit, which sees a part of the tile."""
    low, high = dates
    start = FIRST_DAY + int(rng.integers(REPEAT_S2))
    main = np.arange(start, LAST_DAY + 1, REPEAT_S2)
    aside = main[:-1] + int(rng.choice([2, 3]))
    count = int(rng.integers(low, high + 1))
    extra = min(count - low, max(count // 8, 1))
    if count - extra > len(main):
        raise ArgumentError(
            f"dates={dates} asks for more Sentinel-2 dates than the {len(main)} that one orbit gives;"
            f" choose at most dates=({len(main)}, {len(main)})"
        )
    # What is dropped is mostly what a cloudy season would have made useless: more of the winter.
    winter = 0.5 + 0.5 * np.cos(2 * np.pi * (main - 5) / 365)
    kept = np.argsort(rng.random(len(main)) + 0.5 * winter, kind="stable")[: count - extra]
    days = np.concatenate([main[kept], rng.choice(aside, extra, replace=False)])
    order = np.argsort(days, kind="stable")
    return days[order], (np.arange(count) >= count - extra)[order]


def _cloud_cover(rng: np.random.Generator, days: NDArray[np.int64]) -> Array:
    """Cloud fractions (T,): U-shaped, many clear and some overcast, cloudier in winter."""
    winter = 0.5 + 0.5 * np.cos(2 * np.pi * (days - 5) / 365)
    cover = rng.beta(0.25, 1.3 - 0.45 * winter)
    return np.where(cover < 0.03, 0.0, cover)


def _sun(days: NDArray[np.int64], latitude: float) -> tuple[Array, Array]:
    """Elevation and azimuth (clockwise from north) of the sun at the pass, radians."""
    declination = -np.deg2rad(23.44) * np.cos(2 * np.pi * (days + 10) / 365)
    north = np.deg2rad(latitude)
    sine = np.sin(north) * np.sin(declination) + np.cos(north) * np.cos(declination) * np.cos(_UTC_HOUR_ANGLE)
    elevation = np.arcsin(sine)
    south = (np.sin(declination) - np.sin(north) * sine) / (np.cos(north) * np.cos(elevation))
    return elevation, np.arccos(np.clip(south, -1, 1))  # in the morning: between north and south by the east
