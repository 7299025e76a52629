"""From a footprint polygon in any reference system to the pixel grid it outlines: a UTM zone and six affine numbers.

Called by the formats whose metadata hold footprints but no geotransform. Needs pyproj and shapely (`eokit[geo]`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from eokit.errors import DataError, SetupError

TOLERANCE = 0.5
"""Pixels: how far the sides of a footprint may be from the patch's own before the grid counts as unknown."""


@dataclass(frozen=True)
class Grid:
    """Where a patch lies. `transform`: north-up affine (a, b, c, d, e, f) in metres of `crs`; None where unknown.

    footprint: shapely polygon in lon/lat (EPSG:4326), None without geometry.
    """

    crs: str | None = None
    transform: tuple[float, ...] | None = None
    footprint: Any = None


def locate(geometry: dict | None, crs: str, tile: str | None, size: tuple[int, int], gsd: float) -> Grid:
    """The grid of `size` (H, W) pixels of `gsd` metres that a GeoJSON polygon in `crs` outlines.

    The UTM zone is that of the MGRS `tile` (t31tfm), else that of the centre's longitude. A polygon that is not the
    axis-aligned box of that size in that zone keeps its footprint and gets neither crs nor transform.
    """
    ring = _outer_ring(geometry)
    if ring is None:
        return Grid()
    lonlat = np.stack(_transformer(crs, "EPSG:4326").transform(*ring.T), axis=1)
    if not np.isfinite(lonlat).all():
        return Grid()
    footprint = _polygon(lonlat)
    utm = _zone_of_tile(tile) or _zone_of(*lonlat.mean(axis=0))
    x, y = _transformer(crs, utm).transform(*ring.T)
    height, width = size[0] * gsd, size[1] * gsd
    off = max(abs(np.ptp(x) - width), abs(np.ptp(y) - height))
    if not off <= TOLERANCE * gsd:
        return Grid(footprint=footprint)
    left, top = (x.min() + x.max() - width) / 2, (y.min() + y.max() + height) / 2
    return Grid(utm, (gsd, 0.0, round(float(left), 3), 0.0, -gsd, round(float(top), 3)), footprint)


def outline(crs: str | None, transform: tuple[float, ...] | None, size: tuple[int, int]) -> Grid:
    """The grid of `size` (H, W) pixels that a file itself places; its footprint follows from it."""
    if crs is None or transform is None:
        return Grid()
    a, b, c, d, e, f = transform
    height, width = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    x, y = c + corners @ (a, b), f + corners @ (d, e)
    lonlat = np.stack(_transformer(crs, "EPSG:4326").transform(x, y), axis=1)
    return Grid(crs, transform, _polygon(lonlat)) if np.isfinite(lonlat).all() else Grid(crs, transform)


def require_geo() -> None:
    """SetupError where pyproj or shapely is missing."""
    try:
        import pyproj  # noqa: F401
        import shapely  # noqa: F401
    except ImportError as error:
        raise SetupError(f"footprints need {error.name}, which is not installed; pip install 'eokit[geo]'") from None


def _outer_ring(geometry: dict | None) -> np.ndarray | None:
    """(n, 2) corners of a Polygon or of the first part of a MultiPolygon."""
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return None
    try:
        rings = geometry["coordinates"]
        ring = rings[0][0] if geometry["type"] == "MultiPolygon" else rings[0]
        corners = np.asarray(ring, dtype=np.float64)[:, :2]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return corners if corners.shape == (max(len(corners), 4), 2) and np.isfinite(corners).all() else None


def _zone_of_tile(tile: str | None) -> str | None:
    """EPSG code of an MGRS tile: t31tfm is zone 31, band T; bands N and later lie north of the equator."""
    match = re.fullmatch(r"t?(\d{2})([c-hj-np-x])[a-z]{2}", (tile or "").strip().lower())
    if not match or not 1 <= int(match[1]) <= 60:
        return None
    return f"EPSG:{326 if match[2] >= 'n' else 327}{match[1]}"


def _zone_of(lon: float, lat: float) -> str:
    zone = math.floor((lon + 180) / 6) % 60 + 1
    return f"EPSG:{326 if lat >= 0 else 327}{zone:02d}"


def _polygon(lonlat: np.ndarray) -> Any:
    import shapely

    return shapely.Polygon(lonlat)


@cache
def _transformer(source: str, target: str) -> Any:
    from pyproj import Transformer
    from pyproj.exceptions import CRSError

    try:
        return Transformer.from_crs(source, target, always_xy=True)
    except CRSError:
        raise DataError(
            f"footprints in an unknown coordinate system {source!r}, expected one such as EPSG:2154"
        ) from None
