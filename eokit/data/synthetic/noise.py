"""Random fields that are smooth, continuous over patch borders and cheap in any window; hashes of grid cells.

A field is a sum of octaves; an octave is a lattice of normal numbers under a cubic B-spline. A window of a field costs
two small matrix products, so that a patch is computed alone and still fits its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Floating-point pixels, float32 all through: twice as fast as float64 here, and exact enough."""

Window = tuple[int, int, int, int]
"""y0, x0, height, width in pixels of the landscape."""

_SPLINE_NORM = 315 / 151
"""1 / the mean over one cell of the sum of squared cubic B-spline weights: brings an axis back to unit variance."""


@dataclass(frozen=True)
class SmoothField:
    """About N(0, 1) noise over a landscape. lattices: one (..., my, mx) array of normals per octave, finest last."""

    lattices: tuple[Array, ...]
    spacings: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        shape: tuple[int, int],
        spacings: Sequence[float],
        *,
        falloff: float = 0.5,
        count: tuple[int, ...] = (),
    ) -> SmoothField:
        """(*count) fields over `shape` (H, W) pixels: octaves `spacings` pixels wide, each `falloff` of the last."""
        sizes = [tuple(int(edge / spacing) + 4 for edge in shape) for spacing in spacings]
        lattices = tuple(rng.standard_normal((*count, *size), dtype=np.float32) for size in sizes)
        weights = np.array([falloff**octave for octave in range(len(spacings))])
        weights *= _SPLINE_NORM / np.sqrt((weights**2).sum())
        return cls(lattices, tuple(spacings), tuple(float(weight) for weight in weights))

    def only(self, index: int) -> SmoothField:
        """The field at `index` of the first leading axis."""
        return SmoothField(tuple(lattice[index] for lattice in self.lattices), self.spacings, self.weights)

    def window(self, window: Window) -> Array:
        """The field in `window`: (*count, height, width) float32."""
        y0, x0, height, width = window
        total: Array | float = 0.0
        for lattice, spacing, weight in zip(self.lattices, self.spacings, self.weights, strict=True):
            row, rows = _spline(y0, height, spacing)
            column, columns = _spline(x0, width, spacing)
            part = lattice[..., row : row + rows.shape[1], column : column + columns.shape[1]]
            total = total + (np.float32(weight) * rows) @ part @ columns.T
        return np.asarray(total, dtype=np.float32)


@lru_cache(maxsize=256)
def _spline(start: int, length: int, spacing: float) -> tuple[int, Array]:
    """The first lattice node that `length` pixels from `start` need, and their weights (length, nodes)."""
    position = (np.arange(start, start + length) + 0.5) / spacing
    cell = np.floor(position).astype(int)
    t = position - cell
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((length, int(cell[-1] - cell[0]) + 4), dtype=np.float32)
    np.put_along_axis(weights, (cell - cell[0])[:, None] + np.arange(4), taps.astype(np.float32), axis=1)
    return int(cell[0]), weights


def cell_hash(*keys: NDArray[np.integer] | int) -> Array:
    """A uniform number in [0, 1) for each combination of integer keys, the same wherever it is asked."""
    # A multiply-xorshift mix per key (constants of the 32-bit finaliser of MurmurHash3, public domain).
    state: Array = np.full((), 0x9E3779B9, dtype=np.uint32)
    with np.errstate(over="ignore"):
        for key in keys:
            state = (state ^ np.asarray(key).astype(np.uint32)) * np.uint32(0x85EBCA6B)
            state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
            state = state ^ (state >> np.uint32(16))
    return np.asarray(state >> np.uint32(8), dtype=np.float32) / np.float32(1 << 24)


def jittered_cells(
    u: Array, v: Array, seed: NDArray[np.integer] | int, jitter: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The Voronoi cell (row, column) of points (v, u) among sites on a unit grid moved by up to `jitter` / 2 cells."""
    row0, column0 = np.floor(v).astype(np.int32), np.floor(u).astype(np.int32)
    best = np.full(u.shape, np.inf, dtype=np.float32)
    row, column = row0.copy(), column0.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = row0 + dy, column0 + dx
            site_v = y + 0.5 + jitter * (cell_hash(seed, y, x, 1) - 0.5)
            site_u = x + 0.5 + jitter * (cell_hash(seed, y, x, 2) - 0.5)
            distance = (u - site_u) ** 2 + (v - site_v) ** 2
            nearer = distance < best
            best = np.where(nearer, distance, best)
            row, column = np.where(nearer, y, row), np.where(nearer, x, column)
    return row, column
