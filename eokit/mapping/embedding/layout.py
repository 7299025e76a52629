"""What an output of features holds and where its samples lie; the same for Zarr, GeoParquet and GeoTIFFs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from eokit.data.store import Store
from eokit.mapping.embedding.coding import Coding

Format = Literal["zarr", "geoparquet", "cog"]
KIND = "features"
"""The value of `kind` in what every output says of itself, by which it is known as one."""


@dataclass(frozen=True)
class Place:
    """Where the features of a sample lie. transform: six affine numbers of their grid, of `grid` (rows, columns)."""

    id: str
    fold: int
    crs: str | None
    transform: tuple[float, ...] | None
    grid: tuple[int, int]
    footprint: bytes | None

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Left, bottom, right, top in `crs`."""
        if self.transform is None:
            return None
        corners = np.array(self.corners)
        return (*corners.min(0).tolist(), *corners.max(0).tolist())

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The four corners of the sample's ground in `crs`, in turn."""
        assert self.transform is not None
        a, b, c, d, e, f = self.transform
        h, w = self.grid
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in ((0, 0), (w, 0), (w, h), (0, h))]

    def attributes(self) -> dict[str, Any]:
        """As the geo conventions of Zarr name it: `proj:code`, `spatial:transform`, ..., with the sample's id."""
        told: dict[str, Any] = {"id": self.id, "fold": self.fold, "spatial:shape": list(self.grid)}
        if self.crs is not None:
            told["proj:code" if self.crs.upper().startswith("EPSG:") else "proj:wkt2"] = self.crs
        if self.transform is not None:
            told |= {"spatial:transform": list(self.transform), "spatial:bbox": list(self.bounds or ())}
        return told


def place_of(store: Store, number: int, grid: tuple[int, int]) -> Place:
    """The place of a sample whose ground is cut into `grid` (rows, columns)."""
    where, index = store.where(number), store.index
    height, width = next(iter(store.modalities.values())).shape[1:]  # the grid of the store's transforms
    transform = None
    if where.transform is not None:
        a, b, c, d, e, f = where.transform[:6]
        x, y = width / grid[1], height / grid[0]
        transform = (a * x, b * y, c, d * x, e * y, f)
    return Place(where.id, int(index.folds[number]), where.crs, transform, grid, index.footprints[number])


@dataclass(frozen=True)
class Layout:
    """One row a sample. shape: of its features, (D,) or (D, h, w). attributes: what the output says of itself."""

    places: tuple[Place, ...]
    shape: tuple[int, ...]
    coding: Coding
    attributes: dict[str, Any]

    @cached_property
    def dtype(self) -> np.dtype:
        """The stored dtype."""
        return np.dtype(self.coding.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all features, without compression."""
        return len(self.places) * prod(self.shape) * self.dtype.itemsize


class Target(Protocol):
    """Where features go: made in the folder of an unfinished output, or found there by a run that goes on."""

    def write(self, first: int, stored: np.ndarray) -> None:
        """Keep the features (B, D, ...) of the samples from row `first` on, as stored."""

    def finish(self, facts: dict[str, Any]) -> Path:
        """Complete the output with what is known only at its end; the whole file or folder."""
