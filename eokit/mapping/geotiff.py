"""Dated GeoTIFFs on one grid, read a window at a time into the numbers that a store would hold.

Made by `eokit.mapping.folder`. A pixel counts as unseen where any band is the file's nodata, NaN, <= -10000 or masked,
and where all bands of an optical sensor are 0 (the convention of Sentinel-2 L2A; the same holds for a declared nodata
of 0, since single bands do reach 0 over dark water).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.preprocessing import NODATA, SOURCE_NODATA, Input, Preprocessing
from eokit.data.sensors import get_sensor
from eokit.errors import DataError
from eokit.mapping.scene import Window

MAX_OPEN = 256
"""Files kept open at once; below the usual limit of 1024 descriptors of a process."""
REFLECTANCE = "reflectance"
"""Units of optical sensors begin with this word (sensors.toml)."""


@dataclass(frozen=True)
class Reading:
    """How the files are to be read. physical value = value x `scale` + `offset`, in the unit of the sensor.

    bands: names of every file's bands in order, where the files do not say. nodata: where the files do not say.
    """

    bands: tuple[str, ...] | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None


@dataclass(frozen=True)
class File:
    """What one GeoTIFF says about itself."""

    path: Path
    day: int
    size: tuple[int, int]
    crs: str
    transform: tuple[float, ...]
    dtype: str
    descriptions: tuple[str | None, ...]
    stamp: tuple[int, int] = field(repr=False)
    nodata: float | None = None
    masked: bool = False
    tiled: bool = True
    synthetic: bool = False


@dataclass(frozen=True)
class Image:
    """One date of one modality: `planes`, for each band that the model wants, the file and its band number (from 1)."""

    day: int
    planes: tuple[tuple[File, int], ...]


class GeotiffScene:
    """Dated GeoTIFFs on one grid; see `eokit.mapping.scene.Scene`."""

    def __init__(self, name: str, images: dict[str, list[Image]], preprocessing: Preprocessing, reading: Reading):
        first = next(iter(images.values()))[0].planes[0][0]
        self.name, (self.height, self.width) = name, first.size
        self.days = {key: np.array([image.day for image in row], np.int32) for key, row in images.items()}
        self.preprocessing = preprocessing
        self._images, self._inputs, self._reading = images, preprocessing.inputs, reading
        self._files = _OpenFiles({file.path for row in images.values() for one in row for file, _ in one.planes})

    def read(self, modality: str, window: Window, dates: np.ndarray | None = None) -> np.ndarray:
        """(T, C, h, w) int16: the wanted bands of all (or the chosen) dates, nodata in all bands where unseen."""
        images, one = self._images[modality], self._inputs[modality]
        chosen = images if dates is None else [images[int(date)] for date in dates]
        out = np.empty((len(chosen), len(one.bands), window.height, window.width), np.int16)
        for into, image in zip(out, chosen, strict=True):
            raw, unseen = self._read_image(image, window)
            _to_stored(raw, unseen, one, self._reading, into)
        return out

    def _read_image(self, image: Image, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Raw bands (C, h, w) of one date, and where (h, w) a file declares nothing."""
        import rasterio
        from rasterio.windows import Window as Block

        size = (window.height, window.width)
        block = Block(window.left, window.top, window.width, window.height)
        raw = np.empty((len(image.planes), *size), np.result_type(*{file.dtype for file, _ in image.planes}))
        unseen = np.zeros(size, bool)
        for file in dict.fromkeys(file for file, _ in image.planes):
            places = [place for place, (other, _) in enumerate(image.planes) if other is file]
            indexes = [image.planes[place][1] for place in places]
            try:
                with self._files.use(file.path) as source:
                    raw[places] = source.read(indexes, window=block)
                    if file.masked:
                        unseen |= source.dataset_mask(window=block) == 0
            except rasterio.errors.RasterioIOError as error:
                raise DataError(f"{file.path}: cannot be read, it is damaged or cut short ({cause(error)})") from None
            unseen |= _declared_nodata(raw[places], file.nodata)
        return raw, unseen


def _declared_nodata(raw: np.ndarray, nodata: float | None) -> np.ndarray:
    """(h, w): where any of the bands (C, h, w) is nodata; a nodata of 0 must be in all of them."""
    if nodata is None or np.isnan(nodata):
        return np.zeros(raw.shape[1:], bool)
    return (raw == 0).all(0) if nodata == 0 else (raw == nodata).any(0)


def _to_stored(raw: np.ndarray, unseen: np.ndarray, one: Input, reading: Reading, into: np.ndarray) -> None:
    """Write raw bands (C, h, w) as the int16 that a store of this modality would hold into `into` (C, h, w)."""
    if raw.dtype.kind == "f":
        unseen |= ~np.isfinite(raw).all(0)
    if raw.dtype.kind in "fi":
        unseen |= (raw <= SOURCE_NODATA).any(0)
    if get_sensor(one.sensor).unit.startswith(REFLECTANCE):
        unseen |= (raw == 0).all(0)
    if (reading.scale, reading.offset, one.scale) != (1.0, 0.0, 1.0) or raw.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            raw = np.rint((raw * np.float32(reading.scale) + np.float32(reading.offset)) / np.float32(one.scale))
            raw = np.nan_to_num(raw, nan=0.0)
    into[:] = np.clip(raw, -32767, 32767)
    into[:, unseen] = NODATA if one.nodata is None else one.nodata


class _OpenFiles:
    """Open data sets shared by the reading threads: GDAL handles may not be used by two threads at once."""

    def __init__(self, paths: set[Path]) -> None:
        self._locks = {path: threading.Lock() for path in paths}
        self._open: dict[Path, Any] = {}
        self._keep = len(paths) <= MAX_OPEN

    @contextmanager
    def use(self, path: Path) -> Iterator[Any]:
        """The opened file, for one thread at a time."""
        import rasterio

        with ExitStack() as stack:
            stack.enter_context(self._locks[path])
            stack.enter_context(rasterio.Env())  # sends GDAL's warnings to logging, which it does thread by thread
            if not self._keep:
                yield stack.enter_context(rasterio.open(path))
                return
            if path not in self._open:
                self._open[path] = rasterio.open(path)
            yield self._open[path]


def cause(error: BaseException) -> str:
    """GDAL's own words: rasterio chains them below its general ones."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return " ".join(str(error).split())
