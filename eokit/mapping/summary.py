"""What a finished map says in numbers: hectares and share of every class, mean confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eokit.mapping.scene import Area, row_hectares
from eokit.viz.map import UNSEEN

ROWS = 512
"""Rows read at once."""


@dataclass(frozen=True)
class ClassArea:
    """One class of a map. `share`: of the hectares that were seen, 0..1. `confidence`: mean, 0..100."""

    name: str
    hectares: float
    share: float
    confidence: float


@dataclass(frozen=True)
class MapResult:
    """One map on disk and what it shows. `seconds`, `tiles` and `pixels_per_second` are those of this run."""

    path: Path
    confidence: Path
    picture: Path
    crs: str
    size: tuple[int, int]
    classes: tuple[ClassArea, ...]
    unseen_share: float
    mean_confidence: float | None
    seconds: float
    tiles: int
    pixels_per_second: float | None
    partial: bool = False
    synthetic: bool = False
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Tally:
    """Pixels, hectares and summed confidence by class id (256,)."""

    pixels: np.ndarray
    hectares: np.ndarray
    confidence: np.ndarray


def tally(area: Area, classes: Path, confidence: Path) -> Tally:
    """Count the two maps, a block of rows at a time."""
    import rasterio
    from rasterio.windows import Window as Block

    hectares = row_hectares(area.crs, area.transform, area.height)
    sums = np.zeros((3, 256))
    with rasterio.open(classes) as ids, rasterio.open(confidence) as shares:
        for top in range(0, area.height, ROWS):
            block = Block(0, top, area.width, min(ROWS, area.height - top))
            row = ids.read(1, window=block)
            if (row == UNSEEN).all():
                sums[0, UNSEEN] += row.size
                continue
            flat, weights = row.ravel(), np.repeat(hectares[top : top + ROWS], area.width)
            sums[0] += np.bincount(flat, minlength=256)
            sums[1] += np.bincount(flat, weights, minlength=256)
            sums[2] += np.bincount(flat, shares.read(1, window=block).ravel(), minlength=256)
    return Tally(*sums)


def class_areas(counted: Tally, classes: Sequence[str]) -> tuple[ClassArea, ...]:
    """Classes that are on the map, largest first."""
    total = counted.hectares[:UNSEEN].sum()
    areas = [
        ClassArea(
            name,
            round(float(counted.hectares[number]), 4),
            round(float(counted.hectares[number] / total), 6),
            round(float(counted.confidence[number] / counted.pixels[number]), 2),
        )
        for number, name in enumerate(classes)
        if counted.pixels[number]
    ]
    return tuple(sorted(areas, key=lambda one: -one.hectares))
