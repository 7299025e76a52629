"""What is known of each satellite sensor (bands, wavelengths, units), read once from `sensors.toml`.

Called by the data-set formats, by the preprocessing and by the pictures. A new sensor is a new table in that file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from eokit.errors import DataError


@dataclass(frozen=True)
class Band:
    """One spectral band or polarisation. `wavelength`: centre in nm, None for radar, height; `gsd`: native metres."""

    name: str
    wavelength: float | None
    gsd: float


@dataclass(frozen=True)
class Sensor:
    """One sensor: its bands in their usual order, the unit of its values and the grid (metres) it is stored on."""

    name: str
    title: str
    unit: str
    gsd: float
    bands: tuple[Band, ...]
    band_sets: dict[int, tuple[str, ...]]

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of all bands, in order."""
        return tuple(band.name for band in self.bands)

    def band(self, name: str) -> Band:
        """The band called `name`; a DataError names the bands there are."""
        for band in self.bands:
            if band.name == name:
                return band
        raise DataError(f"sensor {self.name} has no band {name!r}; its bands are {', '.join(self.band_names)}")


@cache
def all_sensors() -> dict[str, Sensor]:
    """Every known sensor by name."""
    tables = tomllib.loads(Path(__file__).with_name("sensors.toml").read_text(encoding="utf-8"))
    return {name: _sensor(name, table) for name, table in tables.items()}


def get_sensor(name: str) -> Sensor:
    """The sensor called `name`; a DataError lists the known ones."""
    try:
        return all_sensors()[name]
    except KeyError:
        raise DataError(f"unknown sensor {name!r}; known sensors: {', '.join(all_sensors())}") from None


def _sensor(name: str, table: dict) -> Sensor:
    names = table["bands"]
    wavelengths = [given or None for given in table.get("wavelength", [None] * len(names))]
    grids = table.get("native_gsd", [table["gsd"]] * len(names))
    bands = tuple(Band(*row) for row in zip(names, wavelengths, grids, strict=True))
    sets = {int(count): tuple(chosen) for count, chosen in table.get("band_sets", {}).items()}
    return Sensor(name, table["title"], table["unit"], table["gsd"], bands, sets)
