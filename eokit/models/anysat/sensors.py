"""The eleven sensors of AnySat: bands, ground sampling distance, and what the projector of each is like.

After Astruc et al., "AnySat", CVPR 2025 (arXiv 2412.14123), and its configurations; a modality of a store is one of
these by its name and number of bands.
"""

from __future__ import annotations

from dataclasses import dataclass

from eokit.errors import UsageError

CELL = 10
"""Metres: patches are multiples of it, and it is the pixel of most of the series."""


@dataclass(frozen=True)
class AnySatSensor:
    """One sensor. bands: as in the published model; gsd: metres of a pixel.

    patch: pixels of an image's sub-patch, 0 for a series, whose sub-patches are its pixels. period: base of the waves
    of the date code, days. series_norm: group norm over all dates of a pixel.
    """

    name: str
    title: str
    bands: tuple[str, ...]
    gsd: float
    patch: int = 0
    period: int = 367
    series_norm: bool = False

    @property
    def is_image(self) -> bool:
        """Whether it is one image, without dates."""
        return self.patch > 0

    @property
    def subpatch(self) -> float:
        """Metres of a sub-patch."""
        return self.gsd * max(self.patch, 1)

    @property
    def whole_tile(self) -> bool:
        """Whether one token stands for the whole tile: a pixel is larger than any patch (MODIS)."""
        return self.gsd >= 100

    def side(self, patch_metres: int) -> int:
        """Sub-patches along a patch of `patch_metres`; a UsageError where they do not fill it."""
        if self.whole_tile:
            return 1
        count = round(patch_metres / self.subpatch)
        if patch_metres < CELL or patch_metres % CELL or abs(count * self.subpatch - patch_metres) > 1e-6:
            need = f"a multiple of {max(CELL, round(self.subpatch))} m"
            raise UsageError(
                f"patch_metres = {patch_metres}: {self.name} has sub-patches of {self.subpatch:g} m, expected {need}"
            )
        return count


_S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_L7 = ("B1", "B2", "B3", "B4", "B5", "B7")
_L8 = ("B8", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11")
_MODIS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7")

SENSORS = {
    sensor.name: sensor
    for sensor in (
        AnySatSensor("aerial", "aerial images of TreeSatAI", ("NIR", "G", "B", "R"), 0.2, patch=10),
        AnySatSensor("aerial-flair", "aerial images of FLAIR", ("R", "G", "B", "NIR", "nDSM"), 0.2, patch=10),
        AnySatSensor("spot", "SPOT 6/7", ("R", "G", "B"), 1.0, patch=10),
        AnySatSensor("naip", "NAIP", ("R", "G", "B", "NIR"), 1.25, patch=8),
        AnySatSensor("s2", "Sentinel-2", _S2, 10.0, series_norm=True),
        AnySatSensor("s1-asc", "Sentinel-1, one orbit, two bands", ("VV", "VH"), 10.0),
        AnySatSensor("s1", "Sentinel-1 with its ratio", ("VV", "VH", "VV/VH"), 10.0),
        AnySatSensor("alos", "ALOS-2 PALSAR-2", ("HH", "HV", "HH/HV"), 30.0),
        AnySatSensor("l7", "Landsat-7", _L7, 30.0),
        AnySatSensor("l8", "Landsat-8/9, resampled to 10 m", _L8, 10.0, period=366),
        AnySatSensor("modis", "MODIS", _MODIS, 250.0),
    )
}
"""By name. The order of aerial bands is that of the data (near infrared first), which the published README does not
say; the bands of `l8` are those of S2NAIP-urban, resampled to 10 m."""

_ALIASES = {"s1-asc": "s1", "s1-des": "s1"}


def sensor_of(modality: str, bands: int) -> AnySatSensor:
    """The sensor that a modality of `bands` bands is: its own name, or a Sentinel-1 orbit with two or three bands."""
    names = [modality] + ([_ALIASES[modality], "s1-asc"] if modality in _ALIASES else [])
    for name in names:
        if name in SENSORS and len(SENSORS[name].bands) == bands:
            return SENSORS[name]
    known = ", ".join(f"{one.name} ({len(one.bands)})" for one in SENSORS.values())
    raise UsageError(f"anysat: modality {modality!r} of {bands} bands is none it takes; it takes (bands): {known}")
