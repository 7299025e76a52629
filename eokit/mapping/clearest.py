"""Which date of each scene a picture shows: clear, of the growing season, and the same one wherever that is possible.

Called by `eokit.mapping.picture`. Only small windows of a scene are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import numpy as np

from eokit.data.spec import ModalitySpec
from eokit.mapping.names import EPOCH
from eokit.mapping.scene import Scene, Window
from eokit.viz.series import find_bands

PROBES = 4
"""Dates are judged by PROBES x PROBES windows of PROBE pixels."""
PROBE = 48
MOST_VALID = 0.95
"""A date that shows less than this share of what the fullest date shows is not clear."""
BRIGHT = 97
"""The percentile of blue that is its bright end: a cloud over a thirtieth of the pixels shows in it."""
HAZE = 4.0
"""Weight of blue's bright end in the clearness; by eye, on real and on synthetic seasons."""
NORTHERN_SUMMER = range(4, 10)
"""Months of the growing season, April to September; the others in the south."""
NEARLY = 0.7
"""A date serves a scene if its clearness is at least this share of that of the scene's clearest date."""


class TrueColour(NamedTuple):
    """Which bands of which modality are red, green and blue, and infrared if there is; `nodata`: of unseen pixels."""

    modality: str
    bands: tuple[int, int, int]
    infrared: int | None
    nodata: int | None


class Look(NamedTuple):
    """A part of a scene, and in which bands it is looked at."""

    scene: Scene
    inside: Window
    colour: TrueColour


def true_colour(scene: Scene) -> TrueColour | None:
    """The first modality of the scene with dates and visible bands."""
    for modality in scene.days:
        one = scene.preprocessing.inputs[modality]
        spec = ModalitySpec(modality, one.sensor, one.bands, (len(one.bands), scene.height, scene.width))
        bands, infrared = find_bands(spec, ("red", "green", "blue")), find_bands(spec, ("infrared",))
        if bands is not None and len(scene.days[modality]):
            return TrueColour(modality, (bands[0], bands[1], bands[2]), infrared[0] if infrared else None, one.nodata)
    return None


def clearest_dates(looks: Sequence[Look], south: bool = False) -> list[int]:
    """The number of a date of each look: on as few different days as serve all, the clearest of them."""
    serving = [_serving(look, south) for look in looks]
    chosen: dict[int, int] = {}
    while len(chosen) < len(looks):
        left = [number for number in range(len(looks)) if number not in chosen]
        gain: defaultdict[int, float] = defaultdict(float)
        for number in left:
            for day, (clear, _) in serving[number].items():
                gain[day] += clear
        day = max(sorted(gain), key=lambda one: gain[one])
        chosen |= {number: serving[number][day][1] for number in left if day in serving[number]}
    return [chosen[number] for number in range(len(looks))]


def _serving(look: Look, south: bool) -> dict[int, tuple[float, int]]:
    """Day -> clearness and number of the dates that are nearly as clear as the clearest."""
    clear, days = clearness(look, south), look.scene.days[look.colour.modality]
    good = [date for date in np.argsort(clear, kind="stable").tolist() if clear[date] >= NEARLY * clear.max()]
    return {int(days[date]): (float(clear[date]), date) for date in good}


def clearness(look: Look, south: bool = False) -> np.ndarray:
    """(T,) 0..1, relative to the clearest date; 0 where pixels are missing, and out of season where others are in it.

    Infrared less red is large where plants grow, in clear summers most; the bright end of blue shows clouds and haze,
    and counts `HAZE` times against it. Where nothing grows, or without infrared: how dark the bright end of blue is.
    """
    colour = look.colour
    probes = [look.scene.read(colour.modality, probe) for probe in _probes(look.inside)]
    values = np.concatenate([probe.reshape(*probe.shape[:2], -1) for probe in probes], axis=2)
    seen = values[:, colour.bands[2]] != colour.nodata
    shares = seen.mean(axis=1)
    whole = (shares > 0) & (shares >= MOST_VALID * shares.max())
    growing = _growing(look.scene.days[colour.modality], south)
    whole = whole & growing if (whole & growing).any() else whole
    bright = np.array([_bright_end(row[shown]) for row, shown in zip(values[:, colour.bands[2]], seen, strict=True)])
    if colour.infrared is not None:
        green = np.where(seen, values[:, colour.infrared].astype(float) - values[:, colour.bands[0]], 0).sum(axis=1)
        clear = np.where(whole, green / np.maximum(seen.sum(axis=1), 1) - HAZE * bright, 0).clip(0)
        if clear.any():
            return clear / clear.max()
    dark = np.where(whole, 1 / np.maximum(bright, 1), 0)
    return dark / max(dark.max(), 1e-9)


def _growing(days: np.ndarray, south: bool) -> np.ndarray:
    """(T,) bool: whether plants grow."""
    months = [(EPOCH + timedelta(days=int(day))).month for day in days]
    return np.array([(month in NORTHERN_SUMMER) != south for month in months])


def _bright_end(blue: np.ndarray) -> float:
    return max(float(np.percentile(blue, BRIGHT)), 0.0) if blue.size else 0.0


def _probes(inside: Window) -> list[Window]:
    """Small windows spread over `inside`, or the whole where it is small itself."""
    if min(inside.height, inside.width) < PROBES * PROBE:
        return [inside]
    return [
        Window(inside.top + down, inside.left + right, PROBE, PROBE)
        for down in np.linspace(0, inside.height - PROBE, PROBES).astype(int).tolist()
        for right in np.linspace(0, inside.width - PROBE, PROBES).astype(int).tolist()
    ]
