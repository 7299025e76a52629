"""What a map is drawn of: scenes (pixels on one grid, with dates) placed on the grid of an output.

A folder of GeoTIFFs is one scene (`eokit.mapping.geotiff`), the samples of a store are many (`eokit.mapping.patches`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from eokit.data.preprocessing import Preprocessing

SYNTHETIC_TAG = "EOKIT_SYNTHETIC"
"""The tag ("yes") of GeoTIFFs whose pixels, or the model that drew them, were made up."""


class Window(NamedTuple):
    """A rectangle of pixels: first row and column, height and width."""

    top: int
    left: int
    height: int
    width: int


class Scene(Protocol):
    """Pixels of one place through time, all modalities on one grid.

    days: modality -> (T,) int32 since 1970-01-01. preprocessing: the model's, for the units and the nodata of `read`.
    """

    name: str
    height: int
    width: int
    days: dict[str, np.ndarray]
    preprocessing: Preprocessing

    def read(self, modality: str, window: Window, dates: np.ndarray | None = None) -> np.ndarray:
        """(T, C, h, w) in the units and bands of `preprocessing`, its nodata in all bands where unseen.

        Called from several threads at once. `dates` picks dates by number. A DataError where a file cannot be read.
        """


ReadTruth = Callable[[Window], np.ndarray]
"""Reads the label that a map shows, (h, w) ids of the map's classes."""


@dataclass(frozen=True)
class Placed:
    """A scene whose first pixel lies at row `top` and column `left` of the map; `truth`: where it has labels."""

    scene: Scene
    top: int = 0
    left: int = 0
    truth: ReadTruth | None = None


@dataclass(frozen=True)
class Area:
    """One map to draw: its grid and the scenes on it (they may overlap and may leave gaps).

    crs: whatever rasterio takes (WKT or EPSG:...). transform: the six affine numbers (a, b, c, d, e, f).
    identity: plain values that tell this input from another one; a map is continued only where they are the same.
    limited: whether samples that belong to it were left out. name: the data set or the place, for titles.
    """

    crs: str
    transform: tuple[float, ...]
    height: int
    width: int
    scenes: tuple[Placed, ...]
    identity: dict[str, Any]
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())
    limited: bool = False
    name: str = ""


def pixel_sides(crs: str, transform: tuple[float, ...], row: float) -> tuple[float, float]:
    """Height and width in metres of a pixel of row `row`.

    On a geographic grid: the length of a degree on the WGS 84 ellipsoid at the row's latitude, from the meridian and
    the prime-vertical radius of curvature.
    """
    from rasterio.crs import CRS

    system = CRS.from_user_input(crs)
    a, b, _, d, e, f = transform[:6]
    tall, wide = float(np.hypot(b, e)), float(np.hypot(a, d))
    if not system.is_geographic:
        metres = system.linear_units_factor[1] if system.is_projected else 1.0
        return tall * metres, wide * metres
    axis, flat = 6_378_137.0, 1 / 298.257223563  # WGS 84
    square = flat * (2 - flat)
    latitude = np.radians(f + e * (row + 0.5))
    root = 1 - square * np.sin(latitude) ** 2
    meridian, prime = axis * (1 - square) / root**1.5, axis / np.sqrt(root)
    return tall * np.radians(1.0) * meridian, wide * np.radians(1.0) * prime * np.cos(latitude)


def is_south(area: Area) -> bool:
    """Whether the middle of the area lies south of the equator; a local grid, which lies nowhere, does not."""
    from rasterio.crs import CRS
    from rasterio.warp import transform

    system = CRS.from_user_input(area.crs)
    if not (system.is_geographic or system.is_projected):
        return False
    a, b, c, d, e, f = area.transform[:6]
    column, row = area.width / 2, area.height / 2
    _, latitudes = transform(area.crs, "EPSG:4326", [a * column + b * row + c], [d * column + e * row + f])
    return latitudes[0] < 0


def row_hectares(crs: str, transform: tuple[float, ...], height: int) -> np.ndarray:
    """(height,) hectares that one pixel of each row covers; the pixels' sides are at right angles."""
    first, last = (np.prod(pixel_sides(crs, transform, row)) for row in (0, height - 1))
    if np.isclose(first, last, rtol=1e-12):
        return np.full(height, first / 10_000)
    return np.array([np.prod(pixel_sides(crs, transform, row)) for row in range(height)]) / 10_000
