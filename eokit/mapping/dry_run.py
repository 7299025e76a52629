"""What a map would take: grid, tiles and dates from file headers, time and memory from a batch of random numbers.

Called by `eokit predict --dry-run`; writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eokit.data.sample import Batch
from eokit.mapping.draw import Plan, crs_name, tiles_a_batch
from eokit.mapping.inference import Predictor, Prepared, probabilities
from eokit.mapping.scene import Area, pixel_sides
from eokit.mapping.tiles import Strip, plan_strips
from eokit.memory import peak_bytes
from eokit.tasks.noise import random_batch


@dataclass(frozen=True)
class MapCost:
    """One map that would be drawn. dates: modality -> fewest and most that a tile is drawn from.

    pixel: height and width in metres. memory_bytes: of this process, or of the GPU on one. seconds: of the model alone,
    without reading.
    """

    path: Path
    crs: str
    size: tuple[int, int]
    pixel: tuple[float, float]
    scenes: int
    dates: dict[str, tuple[int, int]]
    tile: int
    overlap: int
    rows: int
    tiles: int
    batch_size: int
    memory_bytes: int
    seconds: float
    device: str
    partial: bool
    synthetic: bool
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def estimate(predictor: Predictor, area: Area, out: Path, plan: Plan, cache_bytes: int) -> MapCost:
    """What drawing `area` into `out` takes; `cache_bytes`: what GDAL may keep of the files on top."""
    strips = plan_strips(area.scenes, plan.tile, plan.overlap)
    chosen = strips[: plan.rows]
    dates, batch_size = _dates(area, plan), plan.batch_size or tiles_a_batch(area, plan)
    tiles = sum(len(strip.tiles) for strip in chosen)
    batch = _random_batch(predictor, dates, _window(chosen), min(batch_size, tiles))
    seconds, tried = _try(predictor, batch)
    ahead = plan.workers * sum(one.values.nbytes + one.valid.nbytes for one in batch.series.values())
    on_cpu = ahead + _blender_bytes(predictor, area, strips) + cache_bytes
    return MapCost(
        path=out,
        crs=crs_name(area),
        size=(area.height, area.width),
        pixel=pixel_sides(area.crs, area.transform, area.height / 2),
        scenes=len(area.scenes),
        dates=dates,
        tile=plan.tile,
        overlap=plan.overlap,
        rows=len(chosen),
        tiles=tiles,
        batch_size=batch_size,
        memory_bytes=tried + (on_cpu if predictor.device.type == "cpu" else 0),
        seconds=seconds * tiles / len(batch),
        device=str(predictor.device),
        partial=area.limited or len(chosen) < len(strips),
        synthetic=predictor.synthetic or area.synthetic,
        notes=area.notes,
    )


def _dates(area: Area, plan: Plan) -> dict[str, tuple[int, int]]:
    counts: dict[str, list[int]] = {}
    for one in area.scenes:
        for modality, days in one.scene.days.items():
            counts.setdefault(modality, []).append(min(len(days), plan.dates or len(days)))
    return {modality: (min(row), max(row)) for modality, row in counts.items()}


def _window(strips: Sequence[Strip]) -> tuple[int, int]:
    """Height and width of the largest tile."""
    sizes = np.array([tile.window[2:] for strip in strips for tile in strip.tiles])
    return int(sizes[:, 0].max()), int(sizes[:, 1].max())


def _random_batch(predictor: Predictor, dates: dict[str, tuple[int, int]], window: tuple[int, int], size: int) -> Batch:
    """Tiles as long and as large as the largest, padded to whole patches as the real ones are."""
    height, width = (side + -side % predictor.patch_size for side in window)
    longest = {name: max(most, 1) for name, (_, most) in dates.items()}
    return random_batch(predictor.preprocessing, longest, (size, height, width))


def _try(predictor: Predictor, batch: Batch) -> tuple[float, int]:
    """Seconds of the model on `batch`, the second time, and the memory held at most: of this process, or of the GPU."""
    height, width = next(iter(batch.series.values())).values.shape[-2:]
    prepared = Prepared((), np.ones((len(batch), height, width), bool), batch, len(batch))
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        probabilities(predictor, prepared)
        seconds = time.perf_counter() - started
    if predictor.device.type == "cuda":
        return seconds, torch.cuda.max_memory_allocated(predictor.device)
    return seconds, peak_bytes()


def _blender_bytes(predictor: Predictor, area: Area, strips: Sequence[Strip]) -> int:
    """Sums of probabilities and weights of one strip, float32."""
    rows = max(strip.bottom - strip.top for strip in strips)
    return 4 * (len(predictor.classes) + 1) * rows * area.width
