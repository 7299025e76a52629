"""Surface reflectance of a SYNTHETIC season: soil, green leaves, dead leaves and flowers, mixed by leaf area.

The endmember curves are approximate, drawn by hand at a few wavelengths after what every spectral library shows: soil
rises steadily into the short-wave infrared and darkens when wet; green canopies absorb blue and red (chlorophyll), jump
at the red edge between 690 and 750 nm and dip in the water bands of the short-wave infrared; straw has no red edge and
reflects the short-wave infrared; water is dark and darker with wavelength. They are fitted to no measurement.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eokit.data.sensors import get_sensor
from eokit.data.synthetic.calendar import COVERS
from eokit.data.synthetic.noise import Array

SENSOR = get_sensor("sentinel-2")
BANDS = SENSOR.band_sets[10]
WAVELENGTHS = np.array([SENSOR.band(name).wavelength for name in BANDS])
COARSE = np.array([SENSOR.band(name).gsd > SENSOR.gsd for name in BANDS])
"""Bands measured at 20 m: (10,) bool."""

_NODES = (440, 490, 560, 620, 665, 690, 705, 740, 783, 842, 900, 1610, 2190)
_CURVES = {  # reflectance at the wavelengths above (nm)
    "soil": (0.068, 0.088, 0.117, 0.137, 0.149, 0.158, 0.165, 0.182, 0.202, 0.225, 0.245, 0.33, 0.28),
    "green": (0.022, 0.026, 0.062, 0.045, 0.031, 0.050, 0.102, 0.305, 0.405, 0.435, 0.450, 0.200, 0.092),
    "straw": (0.060, 0.080, 0.125, 0.155, 0.175, 0.192, 0.205, 0.235, 0.270, 0.305, 0.330, 0.360, 0.235),
    "flower": (0.025, 0.035, 0.190, 0.195, 0.180, 0.195, 0.230, 0.370, 0.440, 0.465, 0.475, 0.210, 0.095),
    "water": (0.040, 0.045, 0.048, 0.036, 0.030, 0.027, 0.025, 0.021, 0.019, 0.017, 0.015, 0.006, 0.004),
    "built": (0.105, 0.125, 0.145, 0.160, 0.168, 0.173, 0.177, 0.190, 0.205, 0.222, 0.235, 0.260, 0.225),
    "cloud": (0.560, 0.560, 0.560, 0.570, 0.575, 0.580, 0.585, 0.600, 0.610, 0.620, 0.620, 0.420, 0.310),
    # factors, not reflectances:
    "wetting": (0.60, 0.60, 0.59, 0.59, 0.58, 0.58, 0.58, 0.58, 0.58, 0.57, 0.57, 0.50, 0.44),
    "hiding": (0.72, 0.74, 0.68, 0.72, 0.76, 0.72, 0.62, 0.48, 0.44, 0.42, 0.42, 0.56, 0.66),
    "shade": (0.42, 0.45, 0.49, 0.51, 0.53, 0.54, 0.55, 0.57, 0.58, 0.59, 0.60, 0.66, 0.68),
    "haze": (1.00, 0.80, 0.50, 0.38, 0.30, 0.27, 0.25, 0.20, 0.17, 0.14, 0.11, 0.02, 0.01),
}


def curve(name: str) -> Array:
    """An endmember or factor at the ten Sentinel-2 bands: (10,) float32.

    wetting: full wetness times soil. hiding: extinction per leaf area. shade: light lost in a cloud's shadow.
    haze: path radiance relative to 440 nm, about wavelength ** -2.
    """
    return np.interp(WAVELENGTHS, _NODES, _CURVES[name]).astype(np.float32)


def _leaf_curves() -> Array:
    """The closed green canopy of every cover: (covers, 10)."""
    regions = np.array([400, 600, 690, 705, 725, 783, 900, 1500, 2400])
    rows = []
    for cover in COVERS:
        leaf = cover.leaf
        factors = [leaf.visible] * 3 + [leaf.red_edge] * 2 + [leaf.infrared] * 2 + [leaf.shortwave] * 2
        rows.append(curve("green") * np.interp(WAVELENGTHS, regions, factors))
    return np.array(rows, dtype=np.float32)


LEAF = _leaf_curves()
OPEN_ROWS = np.array([cover.bare_rows for cover in COVERS], dtype=np.float32)


class Pixels(NamedTuple):
    """The leaf areas of every pixel (T, H, W), its cover (H, W), the paleness of its leaves
    (H, W, 1 the usual) and the ground under it (10, H, W), dry reflectance.
    """

    green: Array
    brown: Array
    flower: Array
    cover: NDArray[np.int64]
    tint: Array
    ground: Array


def reflectance(pixels: Pixels, wetness: Array) -> Array:
    """Bottom-of-atmosphere reflectance (T, 10, H, W), cloud-free and sharp. wetness: (T,) of the top soil, 0..1."""
    green, brown = pixels.green, np.float32(0.8) * pixels.brown
    total = green + brown
    green_share = green / (total + np.float32(1e-6))
    yellow = green_share * pixels.flower
    open_rows = OPEN_ROWS[pixels.cover]
    out = np.empty((len(wetness), len(BANDS), *pixels.cover.shape), dtype=np.float32)
    bands = zip(*(curve(name) for name in ("straw", "flower", "wetting", "hiding")), strict=True)
    for band, (straw, flower, wetting, hiding) in enumerate(bands):
        leaf = LEAF[pixels.cover, band]
        if WAVELENGTHS[band] < 720:  # chlorophyll absorbs on this side of the red edge
            leaf = leaf * pixels.tint
        leaves = straw + (leaf - straw) * green_share + (flower - leaf) * yellow
        soil = pixels.ground[band] * (1 - (1 - wetting) * wetness)[:, None, None]
        seen = (1 - open_rows) * (1 - np.exp(-hiding * total))
        out[:, band] = soil + (leaves - soil) * seen
    return out
