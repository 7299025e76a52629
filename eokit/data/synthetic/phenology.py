"""Leaf area through a SYNTHETIC season for every parcel: the double logistics of `calendar`, parcel by parcel."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eokit.data.synthetic.calendar import COVERS, CROPS, FIRST_CROP, NEVER, Crop
from eokit.data.synthetic.noise import Array

UNDECLARED = 0.06
"""Share of the fields that are grass which nobody declared: background to PASTIS, a meadow to the eye."""

CUTS = 6
"""At most so many cuts of one meadow in a season."""

REGROWTH_DAYS = 17.0
"""Time constant of the regrowth after a cut."""


@dataclass(frozen=True)
class Surfaces:
    """What makes each surface (background or parcel) its own; all (S,) but `cuts` (S, CUTS). Days as in calendar."""

    cover: NDArray[np.int64]
    shift: Array
    late: Array
    vigour: Array
    cuts: Array
    tillage: Array
    before_green: Array
    before_brown: Array
    before_rise: Array
    before_end: Array
    after_green: Array
    after_rise: Array
    tint: Array
    soil: Array
    roughness: Array

    def take(self, rows: NDArray[np.integer]) -> Surfaces:
        """The surfaces at `rows`."""
        return Surfaces(**{one.name: getattr(self, one.name)[rows] for one in fields(self)})


class Canopy(NamedTuple):
    """green, brown: leaf area index (S, T). flower: share of the canopy in bloom (S, T). All float32."""

    green: Array
    brown: Array
    flower: Array


def draw_covers(rng: np.random.Generator, parcels: int, tilt: float, flatten: float = 0.6) -> NDArray[np.int64]:
    """A cover for each background kind and each of `parcels` parcels, by quota: a long tail that leaves no crop out.

    tilt: log-scale spread of the crop shares of one region against another.
    """
    share = np.array([crop.parcels for crop in CROPS]) ** flatten * np.exp(tilt * rng.standard_normal(len(CROPS)))
    edges = np.cumsum(share) / share.sum()
    # Systematic sampling: every crop gets its expected count, rounded up or down, at places that are then shuffled.
    quantile = (np.arange(parcels) + rng.random()) / max(parcels, 1)
    crop = rng.permutation(np.searchsorted(edges, quantile))
    crop = np.where(rng.random(parcels) < UNDECLARED, 0, FIRST_CROP + crop)
    return np.concatenate([np.arange(FIRST_CROP), crop])


def draw_surfaces(rng: np.random.Generator, cover: NDArray[np.int64], season_shift: float) -> Surfaces:
    """Every parcel's own calendar, vigour and history. season_shift: days by which the region is late this year."""
    count = len(cover)
    trait = {name: np.array([getattr(COVERS[row], name) for row in cover]) for name in ("jitter", "vigour", "sowing")}
    shift = season_shift + 1.25 * trait["jitter"] * rng.standard_normal(count)
    winter = trait["sowing"] < 0
    before_end = np.where(
        winter, trait["sowing"] - 14, np.minimum(10 + 30 * rng.standard_normal(count), trait["sowing"] - 12)
    )
    # What stood before: often nothing, else volunteers, else a summer crop (before winter crops) or a catch crop.
    before = np.where(winter, _pick(rng, count, (0.0, 0.7, 3.0)), _pick(rng, count, (0.0, 0.5, 2.4)))
    values = {
        "shift": shift,
        "late": 0.5 * trait["jitter"] * rng.standard_normal(count),
        "vigour": np.exp(trait["vigour"] * rng.standard_normal(count)),
        "cuts": _draw_cuts(rng, cover),
        "tillage": rng.gamma(3.0, 12.0, count),
        "before_green": before * np.exp(0.2 * rng.standard_normal(count)),
        "before_brown": rng.choice([0.1, 0.5, 1.2], count),
        "before_rise": np.where(winter, -400, -108 + 12 * rng.standard_normal(count)),
        "before_end": before_end + shift,
        "after_green": _pick(rng, count, (0.0, 0.7, 2.2)) * np.exp(0.2 * rng.standard_normal(count)),
        "after_rise": 28 + 9 * rng.standard_normal(count),
        "tint": np.exp(0.13 * rng.standard_normal(count)),
        "soil": np.exp(0.1 * rng.standard_normal(count)),
        "roughness": 1.1 * rng.standard_normal(count),
    }
    return Surfaces(cover=cover, **{name: value.astype(np.float32) for name, value in values.items()})


def canopy(surfaces: Surfaces, days: NDArray[np.integer], drought: float) -> Canopy:
    """Leaf areas on `days` (T,), counted from 1 January of the harvest year. drought: 0 wet summer .. 1 very dry."""
    when = days.astype(np.float32)[None, :]
    shape = (len(surfaces.cover), len(days))
    green, brown, flower = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    for row in np.unique(surfaces.cover):
        chosen = np.flatnonzero(surfaces.cover == row)
        parts = _cover_canopy(COVERS[row], surfaces.take(chosen), when, drought)
        for whole, part in zip((green, brown, flower), parts, strict=True):
            whole[chosen] = part
    return Canopy(green, brown, flower)


def _cover_canopy(crop: Crop, parcels: Surfaces, when: Array, drought: float) -> tuple[Array, Array, Array]:
    """Green, brown and flower (S, T) of parcels that all bear `crop`."""
    shift, vigour = parcels.shift[:, None], parcels.vigour[:, None]
    thirst = drought * crop.drought * np.exp(-(((when - 212) / 38) ** 2))
    green = vigour * _growing(crop, parcels, when) * (1 - thirst)
    brown = vigour * crop.brown * (thirst + _dying(crop, parcels, when))
    for number in range(CUTS):
        since = when - parcels.cuts[:, number, None]
        green = green * (1 - crop.cuts[2] * np.exp(-np.maximum(since, 0) / REGROWTH_DAYS) * _logistic(since / 0.7))
    if not crop.perennial:
        green, brown = _field_work(crop, parcels, when, green, brown)
    flower = crop.flower[2] * np.exp(-(((when - crop.flower[0] - shift) / crop.flower[1]) ** 2))
    return green, brown, flower


def _growing(crop: Crop, parcels: Surfaces, when: Array) -> Array:
    """Green leaf area (S, T) of an undisturbed canopy; a perennial also shows what it grew the year before."""
    shift, end = parcels.shift[:, None], (parcels.shift + parcels.late)[:, None]
    green: Array = np.full((len(shift), when.shape[1]), crop.base, dtype=np.float32)
    for growth in crop.growth:
        for day in (when, when + 365) if crop.perennial else (when,):
            risen = _logistic((day - growth.rise - shift) / growth.rise_days)
            green = green + growth.lai * (risen - _logistic((day - growth.fall - end) / growth.fall_days))
    return np.maximum(green, 0)


def _dying(crop: Crop, parcels: Surfaces, when: Array) -> Array:
    """The share (S, T) of the dead leaves that stands: after the main growth, and in a perennial until the next one."""
    shift, end = parcels.shift[:, None], (parcels.shift + parcels.late)[:, None]
    if not crop.growth:
        return np.zeros((len(shift), when.shape[1]), dtype=np.float32)
    if not crop.perennial:
        last = crop.growth[-1]
        return _logistic((when - last.fall - end) / last.fall_days)
    main = crop.growth[0]
    last_year = _logistic((when + 365 - main.fall - end) / main.fall_days)
    hidden = _logistic((when - main.rise - shift) / main.rise_days)
    return np.maximum(last_year - hidden, 0) + _logistic((when - main.fall - end) / main.fall_days)


def _field_work(crop: Crop, parcels: Surfaces, when: Array, green: Array, brown: Array) -> tuple[Array, Array]:
    """Sowing, harvest, stubble and what grows before and after, on the leaf areas (S, T) of an annual crop."""
    shift = (parcels.shift + parcels.late)[:, None]
    harvest = crop.harvest + shift
    standing = _logistic((when - crop.sowing - parcels.shift[:, None]) / 4) * (1 - _logistic((when - harvest) / 1.5))
    before = 1 - _logistic((when - parcels.before_end[:, None]) / 3)
    after = _logistic((when - harvest - parcels.after_rise[:, None]) / 8)
    stubble = _logistic((when - harvest) / 1.5) * (1 - _logistic((when - harvest - parcels.tillage[:, None]) / 3))
    green = green * standing + parcels.after_green[:, None] * after
    green += parcels.before_green[:, None] * before * _logistic((when - parcels.before_rise[:, None]) / 9)
    brown = brown * standing + 0.9 * stubble + parcels.before_brown[:, None] * before
    return green, brown


def _draw_cuts(rng: np.random.Generator, cover: NDArray[np.int64]) -> Array:
    """Days (S, CUTS) of the cuts of meadows and fodder; NEVER where there is none."""
    cuts = np.full((len(cover), CUTS), NEVER, dtype=np.float32)
    for row in np.unique(cover):
        mean, gap, _ = COVERS[row].cuts
        if mean:
            mown = np.flatnonzero(cover == row)
            first = 128 + 12 * rng.standard_normal((len(mown), 1))
            day = first + np.cumsum(gap + 7 * rng.standard_normal((len(mown), CUTS)), axis=1) - gap
            cuts[mown] = np.where(np.arange(CUTS) < rng.poisson(mean, (len(mown), 1)), day, NEVER)
    return cuts


def _pick(rng: np.random.Generator, count: int, values: tuple[float, float, float]) -> NDArray[np.float64]:
    """`count` draws of three states: half of the fields the first, a fifth the second, the others the third."""
    return rng.choice(values, count, p=(0.5, 0.2, 0.3))


def _logistic(x: Array) -> Array:
    return (0.5 + 0.5 * np.tanh(np.float32(0.5) * x)).astype(np.float32)
