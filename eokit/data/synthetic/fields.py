"""A SYNTHETIC landscape: districts of parallel fields, roads, woods, a river and villages, on one pixel grid.

Fields are Voronoi cells under the rotated, stretched metric of their district, which makes the strips and blocks that
farm land shows from above. Called by `landscape.draw_tile`; patches are windows of the landscape.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eokit.data.synthetic.noise import Array, SmoothField, cell_hash, jittered_cells

DISTRICT = 90.0
"""Pixels between district centres: about a square kilometre farmed in one direction."""

SMALLEST = 12
"""Pixels below which a sliver is no parcel but field margin."""


class Ground(IntEnum):
    """What covers a pixel: a parcel, or one of the kinds of background."""

    PARCEL = 0
    MARGIN = 1
    BROADLEAF = 2
    CONIFER = 3
    WATER = 4
    BUILT = 5


class Fields(NamedTuple):
    """ground: (H, W) uint8, a `Ground`. parcel: (H, W) int32, 1..parcels on fields, 0 elsewhere."""

    ground: NDArray[np.uint8]
    parcel: NDArray[np.int32]
    parcels: int


@dataclass(frozen=True)
class FieldStyle:
    """How the land of a region is cut: median field width (pixels), length over width, shares of woods and villages."""

    width: float = 13.0
    stretch: float = 1.8
    woods: float = 0.13
    built: float = 0.04


def draw_fields(rng: np.random.Generator, shape: tuple[int, int], style: FieldStyle) -> Fields:
    """Cut a landscape of `shape` (H, W) into fields, one-pixel borders and background."""
    salt = int(rng.integers(1 << 31))
    cell = _cells(rng, shape, style, salt)
    border = np.zeros(shape, dtype=bool)
    border[:, :-1] |= cell[:, 1:] != cell[:, :-1]
    border[:-1] |= cell[1:] != cell[:-1]
    ground = _background(rng, shape, style)
    ground[(ground == Ground.PARCEL) & border] = Ground.MARGIN

    on_parcel = ground == Ground.PARCEL
    _, label, sizes = np.unique(cell[on_parcel], return_inverse=True, return_counts=True)
    kept = sizes >= SMALLEST
    number = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    parcel = np.zeros(shape, dtype=np.int32)
    parcel[on_parcel] = number[label]
    ground[on_parcel & (parcel == 0)] = Ground.MARGIN
    return Fields(ground, parcel, int(kept.sum()))


def _cells(rng: np.random.Generator, shape: tuple[int, int], style: FieldStyle, salt: int) -> NDArray[np.int64]:
    """The field cell of each pixel: (H, W) int64, any distinct numbers."""
    y, x = np.meshgrid(np.arange(shape[0], dtype=np.float32), np.arange(shape[1], dtype=np.float32), indexing="ij")
    warp = SmoothField.draw(rng, shape, (40.0,), count=(2,)).window((0, 0, *shape))
    row, column = jittered_cells((x + 4 * warp[0]) / DISTRICT, (y + 4 * warp[1]) / DISTRICT, salt, 0.9)
    district = (row + 1) * 4096 + column + 1

    # Neighbouring districts lean towards one direction of the region, give or take; width and stretch are log-normal.
    angle = np.pi * (0.15 * _normal(salt, district, 3) + np.where(cell_hash(salt, district, 4) < 0.35, 0.5, 0.0))
    width = style.width * np.exp(0.24 * _normal(salt, district, 5))
    length = width * style.stretch * np.exp(0.25 * _normal(salt, district, 6))
    x, y = x + 1.5 * warp[1], y + 1.5 * warp[0]
    along = (x * np.cos(angle) + y * np.sin(angle)) / length
    across = (y * np.cos(angle) - x * np.sin(angle)) / width
    row, column = jittered_cells(along, across, district + salt % 65536, 0.45)
    merged = (cell_hash(salt, district, row, column, 7) < 0.2).astype(
        np.int64
    )  # a fifth of the fields joins the next one in its strip
    return (district.astype(np.int64) << 32) + ((row + 16384).astype(np.int64) << 16) + (column + 16384) - merged


def _normal(*keys: NDArray[np.integer] | int) -> Array:
    """An about normal number for each combination of keys: the sum of four uniform ones, scaled to unit variance."""
    total = sum(cell_hash(*keys, 100 + part) for part in range(4))
    return (np.asarray(total) - 2) * np.float32(np.sqrt(3.0))


def _background(rng: np.random.Generator, shape: tuple[int, int], style: FieldStyle) -> NDArray[np.uint8]:
    """Woods, villages and water as `Ground` (H, W) uint8, PARCEL where the land is free to be farmed."""
    full = (0, 0, *shape)
    woods = SmoothField.draw(rng, shape, (64.0, 24.0, 8.0)).window(full)
    conifer = SmoothField.draw(rng, shape, (80.0, 20.0)).window(full)
    village = SmoothField.draw(rng, shape, (44.0, 12.0), falloff=0.4).window(full)
    river = SmoothField.draw(rng, shape, (150.0, 40.0), falloff=0.2).window(full)
    slope = np.hypot(*np.gradient(river)) + np.float32(1e-4)

    ground = np.zeros(shape, dtype=np.uint8)
    wood = woods > np.quantile(woods, 1 - style.woods)
    ground[wood] = np.where(conifer[wood] > 0.6, Ground.CONIFER, Ground.BROADLEAF)
    ground[village > np.quantile(village, 1 - style.built)] = Ground.BUILT
    from_river = np.abs(river) / slope  # pixels from the zero line, to first order
    ground[from_river < 3.5] = Ground.BROADLEAF  # trees along the bank
    ground[from_river < 1.8] = Ground.WATER
    return ground
