"""Overlapping tiles over a map, and the blending of their class probabilities, a strip of rows at a time.

Called by `eokit.mapping.draw` and `dry_run`. The probabilities of a whole scene are never held: tiles come in strips
from north to south, and rows that no later tile touches are handed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from eokit.errors import UsageError
from eokit.mapping.scene import Placed, Scene, Window
from eokit.viz.map import UNSEEN


@dataclass(frozen=True)
class Tile:
    """One window of one scene, and where its first pixel lies on the map."""

    scene: Scene
    window: Window
    top: int
    left: int


@dataclass(frozen=True)
class Strip:
    """Tiles that begin in about the same row of the map, by shape and from left to right.

    `top`: the first row that any of them touches; `bottom`: the first row that none of them touches.
    """

    top: int
    bottom: int
    tiles: tuple[Tile, ...]


def check_tiling(tile: int, overlap: int, patch_size: int) -> None:
    """Refuse tiles that the model cannot cut into its patches (UsageError)."""
    for name, value, least in (("--tile", tile, patch_size), ("--overlap", overlap, 0)):
        if value < least or value % patch_size:
            raise UsageError(f"{name} {value}: expected a multiple of the model's patch of {patch_size} px, >= {least}")
    if overlap > tile // 2:
        raise UsageError(f"--overlap {overlap}: expected at most half of --tile {tile}")


def plan_strips(scenes: Sequence[Placed], tile: int, overlap: int) -> list[Strip]:
    """All tiles of `scenes`, in strips from the top of the map to its bottom.

    Samples of a store begin in any row: what begins within half a step shares a strip, so that batches are full.
    """
    step = tile - overlap
    tiles = [
        Tile(one.scene, Window(top, left, height, width), one.top + top, one.left + left)
        for one in scenes
        for top, height in _cuts(one.scene.height, tile, step)
        for left, width in _cuts(one.scene.width, tile, step)
    ]
    tiles.sort(key=lambda one: one.top)
    rows: list[list[Tile]] = []
    for one in tiles:
        if not rows or one.top - rows[-1][0].top > step // 2:
            rows.append([])
        rows[-1].append(one)
    return [_strip(row) for row in rows]


def _strip(row: list[Tile]) -> Strip:
    bottom = max(one.top + one.window.height for one in row)
    return Strip(row[0].top, bottom, tuple(sorted(row, key=lambda one: (one.window[2:], one.left, one.top))))


def batches(tiles: Sequence[Tile], size: int) -> Iterator[list[Tile]]:
    """Runs of at most `size` tiles of one shape. None crosses a strip, so that a continued map has the same ones."""
    for _, group in groupby(tiles, key=lambda one: one.window[2:]):
        row = list(group)
        for start in range(0, len(row), size):
            yield row[start : start + size]


def _cuts(length: int, tile: int, step: int) -> list[tuple[int, int]]:
    """(start, length) of tiles along one side: every `step`, the last one moved back so that it ends with the side."""
    if length <= tile:
        return [(0, length)]
    starts = [*range(0, length - tile, step), length - tile]
    return [(start, tile) for start in starts]


def blend_weights(height: int, width: int, overlap: int) -> np.ndarray:
    """(height, width) float32: 1 inside, falling as a squared cosine over `overlap` pixels to every edge, never 0.

    Two tiles that overlap by exactly `overlap` have weights that sum to 1.
    """

    def side(length: int) -> np.ndarray:
        weights = np.ones(length)
        ramp = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
        ramp = ramp[: length // 2]
        weights[: len(ramp)] = ramp
        weights[length - len(ramp) :] = ramp[::-1]
        return weights

    return np.outer(side(height), side(width)).astype(np.float32)


class Blender:
    """Sums weighted probabilities (K, rows, width) in a window of rows that slides down the map."""

    def __init__(self, n_classes: int, rows: int, width: int) -> None:
        self._sums = np.zeros((n_classes, rows, width), np.float32)
        self._weights = np.zeros((rows, width), np.float32)
        self._top = 0

    def add(self, top: int, left: int, probabilities: np.ndarray, weights: np.ndarray) -> None:
        """Add a tile: probabilities (K, h, w), weights (h, w), 0 where nothing was seen."""
        height, width = weights.shape
        rows, columns = slice(top - self._top, top - self._top + height), slice(left, left + width)
        self._sums[:, rows, columns] += probabilities * weights
        self._weights[rows, columns] += weights

    def advance(self, top: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Hand out the rows above `top` as (first row, classes (h, W), confidence (h, W)), and forget them.

        classes: uint8, the most probable one, `UNSEEN` where no tile saw the pixel. confidence: its share, 0..100.
        """
        rows = min(top - self._top, len(self._weights))
        if rows > 0:
            yield self._top, *self._decide(rows)
            for array in (self._sums, self._weights[None]):
                array[:, :-rows] = array[:, rows:].copy() if rows < array.shape[1] else 0
                array[:, -rows:] = 0
        self._top = max(self._top, top)

    def _decide(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        sums, weights = self._sums[:, :rows], self._weights[:rows]
        seen = weights > 0
        best = np.where(seen, sums.argmax(0), UNSEEN).astype(np.uint8)
        share = sums.max(0) / np.where(seen, weights, 1)
        confidence = np.where(seen, np.rint(share * 100).clip(0, 100), UNSEEN).astype(np.uint8)
        return best, confidence
