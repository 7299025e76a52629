"""C-band backscatter of a SYNTHETIC season: a water-cloud model over wet or dry soil, with correlated speckle.

The form is that of Attema and Ulaby (1978): sigma0 = vegetation (1 - a) + soil a, a = exp(-attenuation * biomass). The
coefficients are of the usual size for 40 degrees incidence and fitted to nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eokit.data.synthetic.calendar import COVERS
from eokit.data.synthetic.fields import Ground
from eokit.data.synthetic.noise import Array

LOOKS = 1.1
"""Looks of one raw cell; averaging 2 x 2 of them gives the about 4.4 equivalent looks of Sentinel-1 IW GRD, and its
correlation between neighbouring 10 m pixels (the resolution is 20 x 22 m)."""

SOIL_DB = {"VV": (-12.2, 6.5), "VH": (-20.0, 6.5)}
"""Bare soil: dB at mean wetness, and dB between dry (0) and wet (1)."""

HARD_DB = {Ground.WATER: (-19.5, -27.5), Ground.BUILT: (-5.0, -12.0)}
"""VV, VH of ground that is no soil."""


def backscatter(
    biomass: Array,
    cover: NDArray[np.int64],
    wetness: Array,
    roughness: Array,
    rng: np.random.Generator,
) -> Array:
    """VV, VH and VV - VH in dB: (T, 3, H, W) float32.

    biomass: (T, H, W) leaf area with its dry part. cover: (H, W). wetness: (T,) 0..1. roughness: (H, W) dB.
    """
    wood = np.array([one.wood for one in COVERS], dtype=np.float32)
    attenuation = np.array([one.echo.attenuation for one in COVERS], dtype=np.float32)
    hidden = np.exp(-attenuation[cover] * (biomass + wood[cover]))
    out = np.empty((len(biomass), 3, *cover.shape), dtype=np.float32)
    for channel, name in enumerate(SOIL_DB):
        closed = np.array([getattr(one.echo, name.lower()) for one in COVERS], dtype=np.float32)
        soil = _soil(name, cover, wetness, roughness)
        power = _linear(closed)[cover]
        power = power + (soil - power) * hidden
        out[:, channel] = 10 * np.log10(power * _speckle(rng, power.shape))
    out[:, 2] = out[:, 0] - out[:, 1]
    return out


def _soil(name: str, cover: NDArray[np.int64], wetness: Array, roughness: Array) -> Array:
    """Backscatter of the ground under the plants, linear power (T, H, W)."""
    mean, per_wetness = SOIL_DB[name]
    decibel = mean + per_wetness * (wetness - np.float32(0.35))[:, None, None] + roughness
    for kind, hard in HARD_DB.items():
        where = cover == kind - 1
        decibel[:, where] = hard[name == "VH"] + roughness[where]
    return _linear(decibel)


def _speckle(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    *lead, height, width = shape
    cells = rng.standard_gamma(LOOKS, (*lead, height + 1, width + 1), dtype=np.float32)
    cells = cells[..., 1:] + cells[..., :-1]
    return np.maximum(cells[..., 1:, :] + cells[..., :-1, :], 1e-3) / np.float32(4 * LOOKS)


def _linear(decibel: Array) -> Array:
    return np.exp(np.float32(np.log(10) / 10) * decibel, dtype=np.float32)
