"""Images of published data sets, GeoTIFF or PNG: what a header promises, and a read that says what is wrong.

Called by the formats that ship images. Needs rasterio (`eokit[geo]`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eokit.errors import DataError, SetupError


@dataclass(frozen=True)
class ImageHeader:
    """What an image holds. size: (H, W). crs: "EPSG:32631" or WKT. transform: six affine numbers; None: no grid."""

    bands: int
    dtype: str
    size: tuple[int, int]
    crs: str | None
    transform: tuple[float, ...] | None


def open_image(path: Path) -> Any:
    """The image at `path`, opened with rasterio; DataError or SetupError in one line."""
    try:
        import rasterio
    except ImportError:
        raise SetupError("images need rasterio, which is not installed; pip install 'eokit[geo]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        kind = "PNG" if path.suffix == ".png" else "GeoTIFF"
        raise DataError(f"{path}: cannot be read as a {kind} ({error}); copy or download it again") from None


def read_image_header(path: Path, dtypes: Sequence[str]) -> ImageHeader:
    """The header of an image whose values must be of one of `dtypes`; DataError where it is missing or damaged."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; copy or download it again")
    with open_image(path) as image:
        found, placed = image.dtypes[0], image.crs is not None
        if found not in dtypes:
            raise DataError(f"{path}: dtype {found}, expected {' or '.join(dtypes)}")
        epsg = image.crs.to_epsg() if placed else None
        crs = f"EPSG:{epsg}" if epsg else image.crs.to_wkt() if placed else None
        transform = tuple(image.transform)[:6] if placed else None
        return ImageHeader(image.count, found, (image.height, image.width), crs, transform)


def read_image(path: Path) -> np.ndarray:
    """(C, H, W) of a whole image; DataError where its pixels cannot be read."""
    with open_image(path) as image:
        try:
            return image.read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}); copy or download it again") from None


def crop_grid(transform: tuple[float, ...], pixels: int) -> tuple[float, ...]:
    """The six affine numbers of a north-up grid after cutting `pixels` from its left and upper edge."""
    a, b, c, d, e, f = transform
    return a, b, c + pixels * a, d, e, f + pixels * e
