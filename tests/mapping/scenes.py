"""Small synthetic scenes on disk and a per-pixel stand-in for a model, shared by the tests of maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import Affine
from torch import Tensor

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.sample import Batch
from eokit.mapping.inference import Predictor

BANDS = ("B02", "B03", "B04", "B08")
CLASSES = ("water", "meadow", "maize")
UTM = {"crs": "EPSG:32631", "transform": Affine(10, 0, 600_000, 0, -10, 5_000_000)}


class PixelModel:
    """Logits that depend on nothing but the pixel's own mean over valid dates: tiles can change nothing."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(len(CLASSES), len(BANDS), generator=generator)
        self.batches = 0

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.batches += 1
        (series,) = batch.series.values()
        count = series.valid.sum(1).clamp_min(1)
        mean = series.values.sum(1) / count[:, None]
        return 2 * torch.einsum("kc,bchw->bkhw", self.weights, mean), series.valid.any(1)


class StopsAfter(PixelModel):
    """A model that is interrupted after some batches, as by Ctrl-C."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__call__(batch)


def preprocessing(bands: tuple[str, ...] = BANDS) -> Preprocessing:
    n = len(bands)
    return Preprocessing({"s2": Input("sentinel-2", bands, (1500.0,) * n, (600.0,) * n)})


def predictor(model=None, patch_size: int = 4, identity: str = "stub") -> Predictor:
    device = torch.device("cpu")
    return Predictor(model or PixelModel(), preprocessing(), CLASSES, patch_size, identity, device)


def write_tiff(path: Path, pixels: np.ndarray, descriptions=None, tags=None, **profile) -> Path:
    """pixels: (C, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    options = {"driver": "GTiff", "dtype": pixels.dtype.name, "compress": "DEFLATE"} | UTM | profile
    with rasterio.open(path, "w", count=count, height=height, width=width, **options) as target:
        target.write(pixels)
        target.descriptions = descriptions or (None,) * count
        target.update_tags(**(tags or {}))
    return path


def smooth_pixels(seed: int, height: int, width: int, bands: int = 4) -> np.ndarray:
    """(C, H, W) int16 reflectance x 10000 with fields of 16 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(200, 3000, (bands, -(-height // 16), -(-width // 16)))
    return coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width].astype(np.int16)


def write_scene(folder: Path, height: int = 100, width: int = 150, dates=("20200113", "20200402", "20200621")) -> Path:
    for number, day in enumerate(dates):
        write_tiff(folder / f"S2_{day}.tif", smooth_pixels(number, height, width), BANDS)
    return folder
