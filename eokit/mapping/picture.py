"""What the PNG beside a map shows: the finished maps and the clearest date, thinned out for `eokit.viz.map`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eokit.data.preprocessing import NODATA
from eokit.data.spec import ModalitySpec
from eokit.mapping.cog import confidence_path
from eokit.mapping.names import EPOCH
from eokit.mapping.scene import Area, Placed, Scene, Window, pixel_sides
from eokit.viz.map import UNSEEN_COLOUR, View
from eokit.viz.series import find_bands

LONGEST = 900
"""Pixels along the longer side of a picture's image."""
DENSE = 0.25
"""Where samples cover less of their common box than this, a few of them are shown instead of the whole."""
EXAMPLES = 4
BAND_ROWS = 256
"""Rows read at once for the true colour."""
PROBES = 4
"""The clearest date is looked for in PROBES x PROBES windows of PROBE pixels."""
PROBE = 48


class TrueColour(NamedTuple):
    """Which bands of which modality are red, green and blue; `nodata`: its value of unseen pixels."""

    modality: str
    bands: tuple[int, int, int]
    nodata: int | None


def views_of(area: Area, out: Path, bottom: int) -> list[View]:
    """The whole map down to row `bottom`, or a few samples where they lie far apart."""
    covered = sum(one.scene.height * one.scene.width for one in area.scenes)
    if covered >= DENSE * area.height * area.width or len(area.scenes) == 1:
        windows = [("", Window(0, 0, min(bottom, area.height), area.width))]
    else:
        picked = np.linspace(0, len(area.scenes) - 1, min(EXAMPLES, len(area.scenes))).round().astype(int)
        chosen = [area.scenes[number] for number in picked]
        windows = [
            (f"sample {one.scene.name}", Window(one.top, one.left, one.scene.height, one.scene.width)) for one in chosen
        ]
    return [_view(area, out, title, window) for title, window in windows]


def _view(area: Area, out: Path, title: str, window: Window) -> View:
    import rasterio
    from rasterio.windows import Window as Block

    thin = max(1, -(-max(window.height, window.width) // LONGEST))
    size = -(-window.height // thin), -(-window.width // thin)
    block = Block(window.left, window.top, window.width, window.height)
    layers = []
    for path in (out, confidence_path(out)):
        with rasterio.open(path) as source:
            layers.append(source.read(1, window=block, out_shape=size))
    tall, wide = pixel_sides(area.crs, area.transform, area.height)
    metres = tall * window.height / size[0], wide * window.width / size[1]
    rgb, days = _true_colour(area.scenes, window, size, thin)
    shown = f"true colour {days[0]}" if len(days) == 1 else "true colour, clearest dates"
    return View(title, layers[0], layers[1], metres, rgb, shown)


def _true_colour(
    scenes: Sequence[Placed], window: Window, size: tuple[int, int], thin: int
) -> tuple[np.ndarray | None, list]:
    """(h, w, 3) uint8 of the clearest date of each scene in `window`, and those dates; None where none sees colour."""
    canvas = np.full((3, *size), NODATA, np.int16)
    days = set()
    for one in scenes:
        inside = _intersect(one, window)
        colour = _colour_bands(one.scene)
        if inside is None or colour is None:
            continue
        date = clearest_date(one.scene, colour, inside)
        top, left = (one.top + inside.top - window.top) // thin, (one.left + inside.left - window.left) // thin
        height, width = min(-(-inside.height // thin), size[0] - top), min(-(-inside.width // thin), size[1] - left)
        if height < 1 or width < 1:
            continue
        values = _thinned(one.scene, colour, inside, date, thin)[:, :height, :width]
        part = canvas[:, top : top + height, left : left + width]
        np.copyto(part, values, where=values != colour.nodata)
        days.add(EPOCH + timedelta(days=int(one.scene.days[colour.modality][date])))
    return (_stretch(canvas), sorted(days)) if days else (None, [])


def _thinned(scene: Scene, colour: TrueColour, inside: Window, date: int, thin: int) -> np.ndarray:
    """(3, h, w): every `thin`-th pixel of one date.

    Read whole, a band of rows at a time: GDAL's own thinning decodes a block of a pixel-interleaved file once for every
    band and line (70 s for one row of 10,000 px blocks of ten bands, 0.8 s so).
    """
    step = thin * max(1, BAND_ROWS // thin)
    parts = []
    for down in range(0, inside.height, step):
        window = Window(inside.top + down, inside.left, min(step, inside.height - down), inside.width)
        values = scene.read(colour.modality, window, np.array([date]))
        parts.append(values[0, list(colour.bands), ::thin, ::thin])
    return np.concatenate(parts, axis=1)


def clearest_date(scene: Scene, colour: TrueColour, inside: Window) -> int:
    """The date whose bright end in blue (90th percentile: clouds, haze) is darkest among those that show most."""
    probes = [scene.read(colour.modality, probe)[:, colour.bands[2]] for probe in _probes(inside)]
    blue = np.concatenate([probe.reshape(len(probe), -1) for probe in probes], axis=1)
    seen = blue != colour.nodata
    bright = [np.percentile(row[shown], 90) if shown.any() else np.inf for row, shown in zip(blue, seen, strict=True)]
    shares = seen.mean(axis=1)
    return int(np.argmin(np.where(shares >= 0.95 * shares.max(), bright, np.inf)))


def _probes(inside: Window) -> list[Window]:
    """Small windows spread over `inside`, or the whole where it is small itself."""
    if min(inside.height, inside.width) < PROBES * PROBE:
        return [inside]
    return [
        Window(inside.top + down, inside.left + right, PROBE, PROBE)
        for down in np.linspace(0, inside.height - PROBE, PROBES).astype(int).tolist()
        for right in np.linspace(0, inside.width - PROBE, PROBES).astype(int).tolist()
    ]


def _colour_bands(scene: Scene) -> TrueColour | None:
    for modality in scene.days:
        one = scene.preprocessing.inputs[modality]
        spec = ModalitySpec(modality, one.sensor, one.bands, (len(one.bands), scene.height, scene.width))
        bands = find_bands(spec, ("red", "green", "blue"))
        if bands is not None and len(scene.days[modality]):
            return TrueColour(modality, (bands[0], bands[1], bands[2]), one.nodata)
    return None


def _intersect(one: Placed, window: Window) -> Window | None:
    """The part of a scene that lies in `window` of the map, in the scene's own pixels."""
    top, left = max(one.top, window.top), max(one.left, window.left)
    bottom = min(one.top + one.scene.height, window.top + window.height)
    right = min(one.left + one.scene.width, window.left + window.width)
    if bottom <= top or right <= left:
        return None
    return Window(top - one.top, left - one.left, bottom - top, right - left)


def _stretch(canvas: np.ndarray) -> np.ndarray:
    """(3, h, w) stored values -> (h, w, 3) uint8: one stretch for the three bands, so that hues stay true."""
    seen = (canvas != NODATA).all(axis=0)
    if not seen.any():
        return np.full((*seen.shape, 3), UNSEEN_COLOUR, np.uint8)
    low, high = np.percentile(canvas[:, seen], (1, 98))
    scaled = ((canvas - low) / max(high - low, 1)).clip(0, 1) ** (
        1 / 1.4
    )  # a mild gamma: fields are dark beside clouds
    rgb = np.moveaxis((scaled * 255).round().astype(np.uint8), 0, -1)
    rgb[~seen] = UNSEEN_COLOUR
    return rgb
