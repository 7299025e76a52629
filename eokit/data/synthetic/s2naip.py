"""Write SYNTHETIC tiles in the published layout of S2NAIP, so that the real reader reads them.

Called by `eokit prepare s2naip --synthetic` and by tests.
"""

from __future__ import annotations

import json
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eokit.data.formats.s2naip import INFO
from eokit.data.formats.s2naip_tree import CELL, EDGE, FOLDS, INDEX, LAYERS, NAIP, NAIP_EDGE, Layer
from eokit.data.sensors import get_sensor
from eokit.data.synthetic.copies import check_patches, mark_synthetic, new_copy
from eokit.data.synthetic.noise import Array
from eokit.data.synthetic.pastis import NEW_YEAR
from eokit.data.synthetic.scene import Scene, draw_scenes, mix, photograph
from eokit.data.synthetic.spectra import BANDS
from eokit.progress import Progress

DATES = {"s2": (16, 24), "s1": (4, 8), "l8": (4, 4)}
"""Least and most dates of a tile."""


def write_synthetic(path: Path, *, patches: int = 16, seed: int = 0, quiet: bool = True) -> Path:
    """Write SYNTHETIC tiles in the layout of S2NAIP to the new folder `path`; returns it.

    The same arguments give the same bytes. Raises DataError where `path` is in use.
    """
    check_patches(patches)
    path = Path(path)
    with new_copy(path) as folder, Progress("draw the tiles", patches, quiet=quiet) as bar:
        for name in (NAIP, *(layer.folder for layer in LAYERS.values())):
            (folder / name).mkdir()
        keys = ["name", *(layer.dates for layer in LAYERS.values())]
        index: dict[int, dict[str, list]] = {fold: {key: [] for key in keys} for fold in FOLDS.values()}
        for scene in draw_scenes(patches, EDGE, seed, (38, 61)):
            id = f"{scene.epsg}_{int(scene.corner[0] // CELL)}_{-int(scene.corner[1] // CELL)}"
            index[scene.fold]["name"].append(id)
            for name, (days, images) in _series(scene).items():
                _write_stacks(folder, LAYERS[name], id, name, images)
                index[scene.fold][LAYERS[name].dates].append([_yyyymmdd(day) for day in days.tolist()])
            wavelengths = [band.wavelength or 0.0 for band in get_sensor("naip").bands]
            _write(folder / NAIP / f"{id}.png", photograph(scene, wavelengths, NAIP_EDGE)[1])
            bar.advance()
        for split, fold in FOLDS.items():
            (folder / INDEX.format(split)).write_text(json.dumps(index[fold]), encoding="utf-8")
        mark_synthetic(folder, INFO.title, seed)
    return path


def _series(scene: Scene) -> dict[str, tuple[NDArray, Array]]:
    """Days and images (T, C, 64, 64) by modality, in the order of the bands of its sensor."""
    rng, landsat = scene.rng(4), get_sensor("landsat-8-dn").bands
    counts = {name: int(rng.integers(low, high + 1)) for name, (low, high) in DATES.items()}
    optical, numbers = scene.clearest(counts["s2"]), scene.clearest(counts["l8"])
    reflectance = np.maximum(scene.s2.images, 1)
    seen = mix(reflectance[numbers], [band.wavelength or 0.0 for band in landsat])
    days, decibel = scene.s1("s1-asc")
    at = np.linspace(0, len(days) - 1, counts["s1"]).astype(int)
    return {
        "s2": (scene.s2.days[optical], reflectance[optical].astype(np.uint16)),
        "s1": (days[at], decibel[at]),
        "l8": (scene.s2.days[numbers], np.rint(5000 + 2 * seen).astype(np.uint16)),
    }


def _write_stacks(folder: Path, layer: Layer, id: str, name: str, images: Array) -> None:
    """The files of one series: the dates of a tile on the band axis, coarse bands averaged."""
    names = {"s2": BANDS, "s1": ("VV", "VH"), "l8": get_sensor("landsat-8-dn").band_names}[name]
    for stack in layer.stacks:
        part = images[:, [names.index(band) for band in stack.bands]]
        block = EDGE // stack.edge
        if block > 1:
            cells = part.reshape(*part.shape[:2], stack.edge, block, stack.edge, block)
            part = np.rint(cells.mean(axis=(3, 5))).astype(part.dtype)
        _write(layer.file(folder, id, stack), part.reshape(-1, stack.edge, stack.edge))


def _write(file: Path, pixels: NDArray) -> None:
    import rasterio

    size = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    driver = {"driver": "PNG"} if file.suffix == ".png" else {"driver": "GTiff", "compress": "deflate"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(file, "w", **driver, **size) as out:
            out.write(pixels)


def _yyyymmdd(day: int) -> int:
    return int(f"{NEW_YEAR + timedelta(days=day):%Y%m%d}")
