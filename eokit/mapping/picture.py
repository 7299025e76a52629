"""What the PNG beside a map shows: maps, labels and the clearest date, thinned out for `eokit.viz.map`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from eokit.data.preprocessing import NODATA
from eokit.mapping.clearest import Look, clearest_dates, true_colour
from eokit.mapping.cog import confidence_path
from eokit.mapping.names import EPOCH
from eokit.mapping.scene import Area, Placed, Window, is_south, pixel_sides
from eokit.viz.map import UNSEEN, UNSEEN_COLOUR, View

LONGEST = 900
"""Pixels along the longer side of a picture's image."""
DENSE = 0.25
"""Where samples cover less of their common box than this, a few of them are shown instead of the whole."""
EXAMPLES = 4
BAND_ROWS = 256
"""Rows read at once for the true colour."""


@dataclass(frozen=True)
class Cutting:
    """A part of the map as the picture shows it: every `thin`-th pixel of `window`, (h, w) `size` of them."""

    title: str
    window: Window
    thin: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """The part of a scene that lies in a cutting: `inside` in the scene's pixels, `rows`, `columns` of the cutting."""

    placed: Placed
    inside: Window
    rows: slice
    columns: slice


def views_of(area: Area, out: Path, bottom: int) -> list[View]:
    """The whole map down to row `bottom`, or a few samples where they lie far apart; all stretched alike."""
    cuttings = _cuttings(area, bottom)
    pieces = [_pieces(area.scenes, cutting) for cutting in cuttings]
    images = _true_colours(cuttings, pieces, is_south(area))
    return [_view(area, out, *parts) for parts in zip(cuttings, pieces, images, strict=True)]


def shown_of(area: Area, views: Sequence[View]) -> str:
    """How much of the map the views show, in words: `4 of 8 patches`; empty for a single scene."""
    count = len(area.scenes)
    if count == 1:
        return ""
    return f"{count} patches" if len(views) == 1 else f"{len(views)} of {count} patches"


def _cuttings(area: Area, bottom: int) -> list[Cutting]:
    covered = sum(one.scene.height * one.scene.width for one in area.scenes)
    if covered >= DENSE * area.height * area.width or len(area.scenes) == 1:
        return [_cutting("", Window(0, 0, min(bottom, area.height), area.width))]
    picked = np.linspace(0, len(area.scenes) - 1, min(EXAMPLES, len(area.scenes))).round().astype(int)
    chosen = [area.scenes[number] for number in picked]
    return [
        _cutting(f"patch {one.scene.name}", Window(one.top, one.left, one.scene.height, one.scene.width))
        for one in chosen
    ]


def _cutting(title: str, window: Window) -> Cutting:
    thin = max(1, -(-max(window.height, window.width) // LONGEST))
    return Cutting(title, window, thin, (-(-window.height // thin), -(-window.width // thin)))


def _pieces(scenes: Sequence[Placed], cutting: Cutting) -> list[Piece]:
    """The scenes that reach into a cutting."""
    found = []
    for one in scenes:
        inside = _intersect(one, cutting.window)
        if inside is None:
            continue
        thin, size = cutting.thin, cutting.size
        top = (one.top + inside.top - cutting.window.top) // thin
        left = (one.left + inside.left - cutting.window.left) // thin
        bottom, right = min(top - (-inside.height // thin), size[0]), min(left - (-inside.width // thin), size[1])
        if bottom > top and right > left:
            found.append(Piece(one, inside, slice(top, bottom), slice(left, right)))
    return found


def _view(
    area: Area, out: Path, cutting: Cutting, pieces: Sequence[Piece], image: tuple[np.ndarray | None, str]
) -> View:
    import rasterio
    from rasterio.windows import Window as Block

    window, size = cutting.window, cutting.size
    block = Block(window.left, window.top, window.width, window.height)
    layers = []
    for path in (out, confidence_path(out)):
        with rasterio.open(path) as source:
            layers.append(source.read(1, window=block, out_shape=size))
    tall, wide = pixel_sides(area.crs, area.transform, area.height)
    metres = tall * window.height / size[0], wide * window.width / size[1]
    return View(cutting.title, layers[0], layers[1], metres, *image, _truth(cutting, pieces))


def _truth(cutting: Cutting, pieces: Sequence[Piece]) -> np.ndarray | None:
    """(h, w) ids of the labels, UNSEEN where there is no scene; None where the source has no labels."""
    canvas = np.full(cutting.size, UNSEEN, np.uint8)
    labelled = [(piece, piece.placed.truth) for piece in pieces if piece.placed.truth is not None]
    for piece, read in labelled:
        part = canvas[piece.rows, piece.columns]
        part[:] = read(piece.inside)[:: cutting.thin, :: cutting.thin][: part.shape[0], : part.shape[1]]
    return canvas if labelled else None


def _true_colours(
    cuttings: Sequence[Cutting], pieces: Sequence[Sequence[Piece]], south: bool
) -> list[tuple[np.ndarray | None, str]]:
    """For each cutting the (h, w, 3) uint8 image and what it is called; None where no scene sees colour."""
    looks = {
        (number, at): Look(piece.placed.scene, piece.inside, colour)
        for number, row in enumerate(pieces)
        for at, piece in enumerate(row)
        if (colour := true_colour(piece.placed.scene)) is not None
    }
    dates = dict(zip(looks, clearest_dates(list(looks.values()), south), strict=True))
    canvases = [np.full((3, *cutting.size), NODATA, np.int16) for cutting in cuttings]
    days: list[set[int]] = [set() for _ in cuttings]
    for (number, at), look in looks.items():
        piece, date = pieces[number][at], dates[number, at]
        part = canvases[number][:, piece.rows, piece.columns]
        values = _thinned(look, date, cuttings[number].thin)[:, : part.shape[1], : part.shape[2]]
        np.copyto(part, values, where=values != look.colour.nodata)
        days[number].add(int(look.scene.days[look.colour.modality][date]))
    images = stretch(canvases)
    return [(image, _called(shown)) if shown else (None, "") for image, shown in zip(images, days, strict=True)]


def _called(days: set[int]) -> str:
    if len(days) > 1:
        return "true colour, clearest dates"
    return f"true colour {EPOCH + timedelta(days=days.copy().pop())}"


def _thinned(look: Look, date: int, thin: int) -> np.ndarray:
    """(3, h, w): every `thin`-th pixel of one date.

    Read whole, a band of rows at a time: GDAL's own thinning decodes a block of a pixel-interleaved file once for every
    band and line (70 s for one row of 10,000 px blocks of ten bands, 0.8 s so).
    """
    scene, inside, colour = look
    step = thin * max(1, BAND_ROWS // thin)
    parts = []
    for down in range(0, inside.height, step):
        window = Window(inside.top + down, inside.left, min(step, inside.height - down), inside.width)
        values = scene.read(colour.modality, window, np.array([date]))
        parts.append(values[0, list(colour.bands), ::thin, ::thin])
    return np.concatenate(parts, axis=1)


def _intersect(one: Placed, window: Window) -> Window | None:
    """The part of a scene that lies in `window` of the map, in the scene's own pixels."""
    top, left = max(one.top, window.top), max(one.left, window.left)
    bottom = min(one.top + one.scene.height, window.top + window.height)
    right = min(one.left + one.scene.width, window.left + window.width)
    if bottom <= top or right <= left:
        return None
    return Window(top - one.top, left - one.left, bottom - top, right - left)


def stretch(canvases: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(3, h, w) stored values -> (h, w, 3) uint8: one stretch for all images and bands, so that hues stay true."""
    masks = [(canvas != NODATA).all(axis=0) for canvas in canvases]
    values = np.concatenate([canvas[:, seen].ravel() for canvas, seen in zip(canvases, masks, strict=True)])
    low, high = np.percentile(values, (1, 98)) if len(values) else (0.0, 1.0)
    images = []
    for canvas, seen in zip(canvases, masks, strict=True):
        # a mild gamma: fields are dark beside clouds
        scaled = ((canvas - low) / max(high - low, 1)).clip(0, 1) ** (1 / 1.4)
        image = np.moveaxis((scaled * 255).round().astype(np.uint8), 0, -1)
        image[~seen] = UNSEEN_COLOUR
        images.append(image)
    return images
