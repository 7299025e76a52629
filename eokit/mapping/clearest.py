"""Which date of each scene a picture shows: clear, of the growing season, and the same one wherever that is possible.

Called by `eokit.mapping.picture`. Only small windows of a scene are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eokit.data.spec import ModalitySpec
from eokit.mapping.scene import Scene, Window
from eokit.viz.series import find_bands

PROBES = 4
"""Dates are judged by PROBES x PROBES windows of PROBE pixels."""
PROBE = 48
MOST_VALID = 0.95
"""A date that shows less than this share of what the fullest date shows is not clear."""
NEARLY = 0.8
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


def clearest_dates(looks: Sequence[Look]) -> list[int]:
    """The number of a date of each look: on as few different days as serve all, the clearest of them."""
    serving = [_serving(look) for look in looks]
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


def _serving(look: Look) -> dict[int, tuple[float, int]]:
    """Day -> clearness and number of the dates that are nearly as clear as the clearest."""
    clear, days = clearness(look), look.scene.days[look.colour.modality]
    good = [date for date in np.argsort(clear, kind="stable").tolist() if clear[date] >= NEARLY * clear.max()]
    return {int(days[date]): (float(clear[date]), date) for date in good}


def clearness(look: Look) -> np.ndarray:
    """(T,) 0..1, relative to the clearest date; 0 where pixels are missing.

    NDVI x infrared (the NIRv of Badgley et al. 2017): clouds and snow have little of the first, shadows, haze and
    winter little of the second. Without infrared: how dark the bright end of blue is (90th percentile).
    """
    colour = look.colour
    probes = [look.scene.read(colour.modality, probe) for probe in _probes(look.inside)]
    values = np.concatenate([probe.reshape(*probe.shape[:2], -1) for probe in probes], axis=2)
    red, blue = values[:, colour.bands[0]], values[:, colour.bands[2]]
    seen = blue != colour.nodata if colour.nodata is not None else np.ones(blue.shape, bool)
    if colour.infrared is not None:
        red, infrared = (np.where(seen, band, 0.0).sum(axis=1).clip(0) for band in (red, values[:, colour.infrared]))
        clear = (infrared - red) / np.maximum(infrared + red, 1e-6) * infrared / np.maximum(seen.sum(axis=1), 1)
        clear = clear.clip(0) / max(clear.max(), 1e-6)
    else:
        bright = np.array(
            [np.percentile(row[shown], 90) if shown.any() else np.inf for row, shown in zip(blue, seen, strict=True)]
        )
        clear = np.maximum(bright.min(), 1) / np.maximum(bright, 1)
    shares = seen.mean(axis=1)
    return np.where((shares > 0) & (shares >= MOST_VALID * shares.max()), clear, 0.0)


def _probes(inside: Window) -> list[Window]:
    """Small windows spread over `inside`, or the whole where it is small itself."""
    if min(inside.height, inside.width) < PROBES * PROBE:
        return [inside]
    return [
        Window(inside.top + down, inside.left + right, PROBE, PROBE)
        for down in np.linspace(0, inside.height - PROBE, PROBES).astype(int).tolist()
        for right in np.linspace(0, inside.width - PROBE, PROBES).astype(int).tolist()
    ]
