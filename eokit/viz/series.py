"""What pictures show of a series: its true-colour bands, its clearest dates, the quartiles of a class through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eokit.data.describe import iso
from eokit.data.sensors import get_sensor
from eokit.data.spec import ModalitySpec
from eokit.data.store import Store

VISIBLE = {"red": (660.0, 40.0), "green": (560.0, 40.0), "blue": (485.0, 30.0), "infrared": (845.0, 40.0)}
"""Centre and tolerance (nm) of the bands that true colour and NDVI need."""

CLOUD = 0.2
"""Blue reflectance above which a pixel is left out of the NDVI curves as cloud; soils and crops stay below."""

STEPS = 45
"""Points of a curve over the whole season, at most."""


@dataclass(frozen=True)
class Series:
    """Quartiles of a quantity by class and step of time.

    label: the layer that names the classes. days: (S,) middles of the steps. values: (3, K, S), NaN where none.
    pixels: (K,) pixels of each class that were read. note: what was read, for a caption.
    """

    quantity: str
    label: str
    days: NDArray[np.float64]
    values: NDArray[np.float64]
    pixels: NDArray[np.int64]
    note: str

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest value of all classes, so that their curves share an axis."""
        if np.isnan(self.values).all():
            return 0.0, 1.0
        return float(np.nanmin(self.values)), float(np.nanmax(self.values))


def find_bands(spec: ModalitySpec, names: Sequence[str]) -> list[int] | None:
    """Positions of the bands nearest to red, green, blue or infrared; None where the modality lacks one."""
    sensor = get_sensor(spec.sensor)
    wavelengths = np.array([sensor.band(band).wavelength or np.nan for band in spec.bands], dtype=float)
    if np.isnan(wavelengths).all():
        return None
    found = []
    for name in names:
        centre, tolerance = VISIBLE[name]
        distance = np.abs(wavelengths - centre)
        if np.nanmin(distance) > tolerance:
            return None
        found.append(int(np.nanargmin(distance)))
    return found


def physical(spec: ModalitySpec, stored: NDArray) -> NDArray[np.float32]:
    """Stored values in physical units, NaN where nodata."""
    values = stored.astype(np.float32) * np.float32(spec.scale)
    if spec.nodata is not None:
        values[stored == spec.nodata] = np.nan
    return values


def clearest_dates(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """`count` dates of (T, H, W) one band, spread over the season: in each part of it the one that looks most usual.

    Clouds lie above the lower quartile of a pixel through time and shadows below, so both count as unusual, as does
    nodata. The median would be a cloud where more than half of the dates are cloudy.
    """
    usual = _lower_quartile(values[:, ::2, ::2])
    strange = np.abs(values[:, ::2, ::2] - usual)
    strange = np.where(np.isnan(strange), np.nanmax(strange) if np.isfinite(strange).any() else 1.0, strange)
    score = strange.mean(axis=(1, 2))
    parts = np.array_split(np.arange(len(values)), min(count, len(values)))
    return np.array([part[np.argmin(score[part])] for part in parts])


@dataclass(frozen=True)
class Quantity:
    """What a curve shows, and how to get it: name, and the bands it reads."""

    name: str
    bands: tuple[int, ...]
    cloud_over: float | None = None

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(T, H, W) from (T, C, H, W) in physical units."""
        if len(self.bands) == 1:
            return values[:, self.bands[0]]
        red, infrared, *blue = (values[:, band] for band in self.bands)
        index = (infrared - red) / np.maximum(infrared + red, 1e-6)
        if blue and self.cloud_over is not None:
            index = np.where(blue[0] > self.cloud_over, np.nan, index)
        return index


def choose_quantity(spec: ModalitySpec) -> Quantity:
    """NDVI where there are red and infrared, VH of a radar, else the first band."""
    pair = find_bands(spec, ("red", "infrared"))
    unit = get_sensor(spec.sensor).unit
    if pair:
        blue = find_bands(spec, ("blue",)) if unit.startswith("reflectance") else None
        scale = 10000 if "10000" in unit else 1
        return Quantity("NDVI", (*pair, *(blue or ())), CLOUD * scale if blue else None)
    band = spec.bands.index("VH") if "VH" in spec.bands else 0
    return Quantity(f"{spec.bands[band]} ({unit})", (band,))


def class_series(store: Store, modality: str, label: str, samples: Sequence[int]) -> Series:
    """Quartiles by class over `samples`, in steps of equal length. The label's grid must be the modality's."""
    spec, quantity = store.modalities[modality], choose_quantity(store.modalities[modality])
    count = len(store.labels[label].classes or ())
    days = [store.days(modality, sample) for sample in samples]
    first, last = min(one.min() for one in days), max(one.max() for one in days)
    steps = int(min(STEPS, last - first + 1, max(len(one) for one in days)))
    edges = np.linspace(first, last + 1, steps + 1)
    found: dict[tuple[int, int], list[NDArray]] = {}
    pixels = np.zeros(count, dtype=np.int64)
    for sample, when in zip(samples, days, strict=True):
        values = quantity.of(physical(spec, store.read(modality, sample)))
        classes = store.read_label(label, sample)
        step = np.digitize(when, edges) - 1
        for number in np.unique(classes[classes < count]):
            inside = classes == number
            pixels[number] += inside.sum()
            for at in np.unique(step):
                found.setdefault((int(number), int(at)), []).append(values[step == at][:, inside].ravel())
    quartiles = np.full((3, count, steps), np.nan)
    for (number, at), parts in found.items():
        seen = np.concatenate(parts)
        seen = seen[~np.isnan(seen)]
        if len(seen):
            quartiles[:, number, at] = np.percentile(seen, (25, 50, 75))
    patches = f"{len(samples)} patches" if len(samples) > 1 else "1 patch"
    note = f"{quantity.name} over {patches}, {iso(first)[:7]} to {iso(last)[:7]}"
    if quantity.cloud_over is not None:
        note += f"; pixels with blue reflectance over {CLOUD} left out as cloud"
    return Series(quantity.name, label, (edges[:-1] + edges[1:]) / 2, quartiles, pixels, note)


def _lower_quartile(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The lower quartile through time without NaN's warnings: (H, W), NaN where a pixel was never seen."""
    ordered = np.sort(values, axis=0)  # NaN last
    seen = (~np.isnan(values)).sum(axis=0)
    at = np.minimum((seen + 1) // 4, np.maximum(seen - 1, 0))
    return np.take_along_axis(ordered, at[None], axis=0)[0]
