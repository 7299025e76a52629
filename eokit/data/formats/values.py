"""From published pixel values to stored int16: reflectance as it is, radar in steps of 1/256 dB, nodata in all bands.

Called by the formats when they read pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eokit.data.preprocessing import NODATA, SOURCE_NODATA
from eokit.errors import DataError

DB_STEP = 1 / 256
"""dB: keeps the float16 values that PASTIS-R publishes exactly from 4 dB up, and to 1/512 dB below."""


def store_reflectance(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """(T, C, H, W) reflectance x 10000 of any dtype to int16, and whether any pixel was observed.

    A pixel of which one band is NaN or <= -10000 is nodata in all bands; the rest is cut to what int16 holds.
    """
    bad = ~(array.min(axis=1) > SOURCE_NODATA)
    if array.dtype != np.int16:
        array = np.minimum(array, np.iinfo(np.int16).max)
        array = np.rint(np.where(bad[:, None], NODATA, array)).astype(np.int16)
    elif bad.any():
        np.copyto(array, NODATA, where=bad[:, None])
    return array, not bad.all()


def store_decibel(array: np.ndarray, step: float = DB_STEP) -> tuple[np.ndarray, bool]:
    """(T, C, H, W) dB to int16 steps of `step` dB, and whether any pixel was observed.

    A pixel of which one band is not finite is nodata in all bands. Date by date, so that float32 stays in the cache:
    twice as fast as the whole array at once.
    """
    stored, seen = np.empty(array.shape, np.int16), False
    limit = np.iinfo(np.int16).max
    for image, out in zip(array, stored, strict=True):
        values = image.astype(np.float32)
        values /= step
        with np.errstate(invalid="ignore"):
            bad = ~np.isfinite(values.sum(axis=0))
        np.rint(values, out=values)
        np.clip(values, -limit, limit, out=values)
        if bad.any():
            np.copyto(values, NODATA, where=bad)
        out[...] = values
        seen = seen or not bad.all()
    return stored, seen


def decibel(power: np.ndarray) -> np.ndarray:
    """Linear power to float32 dB; what is not above zero becomes NaN or -inf, which `store_decibel` takes as nodata."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(power.astype(np.float32))


def as_decibel(pair: np.ndarray, unit: str, path: Path) -> np.ndarray:
    """(T, 2, H, W) radar of `unit`, "dB" or "linear", as float32 dB; DataError where dB can hardly be dB."""
    if unit == "linear":
        return decibel(pair)
    if np.isfinite(pair).any() and not (pair <= 0).any():
        raise DataError(
            f'{path}: no radar value is below 0, as decibels are; if it is linear power say "radar": "linear" in'
            " the options of eokit.json"
        )
    return pair.astype(np.float32)


def with_ratio(pair: np.ndarray) -> np.ndarray:
    """(T, 2, H, W) dB of two polarisations with their difference, the ratio of the powers, as third band."""
    with np.errstate(invalid="ignore"):
        return np.concatenate([pair, pair[:, :1] - pair[:, 1:]], axis=1)
