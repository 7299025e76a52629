"""Write SYNTHETIC patches in the published layout of TreeSatAI-TS, so that the real reader reads them.

Called by `eokit prepare treesatai --synthetic` and by tests. Each genus stands for one or two covers of the landscape.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eokit.data.formats.hdf5 import require_h5
from eokit.data.formats.treesatai import AERIAL_GSD, INFO, PUBLISHED_EDGE
from eokit.data.formats.treesatai_labels import FOLDS, GENERA, LABELS, SPLIT
from eokit.data.sensors import get_sensor
from eokit.data.synthetic.copies import check_patches, mark_synthetic, new_copy
from eokit.data.synthetic.pastis import NEW_YEAR
from eokit.data.synthetic.scene import Scene, draw_scenes, photograph
from eokit.progress import Progress

PIXELS = 6
BANDS = ("NIR", "G", "B", "R")
DATES = (38, 61)


def write_synthetic(path: Path, *, patches: int = 16, seed: int = 0, quiet: bool = True) -> Path:
    """Write SYNTHETIC patches in the layout of TreeSatAI-TS to the new folder `path`; returns it.

    The same arguments give the same bytes. Raises DataError where `path` is in use, SetupError without h5py.
    """
    check_patches(patches)
    require_h5()
    path = Path(path)
    with new_copy(path) as folder, Progress("draw the patches", patches, quiet=quiet) as bar:
        for name in ("aerial", "sentinel-ts", "labels", "split"):
            (folder / name).mkdir()
        labels: dict[str, list[tuple[str, float]]] = {}
        lists: dict[int, list[str]] = {fold: [] for fold in FOLDS.values()}
        for scene in draw_scenes(patches, PIXELS, seed, DATES):
            shares = genus_shares(scene)
            name = f"{shares[0][0]}_synthetic_1_{scene.number:04d}_NONE_NONE"
            _write_aerial(folder / "aerial" / f"{name}.tif", scene)
            _write_series(folder / "sentinel-ts" / f"{name}.h5", scene)
            labels[f"{name}.tif"] = shares
            lists[scene.fold].append(f"{name}.tif\n")
            bar.advance()
        (folder / LABELS).write_text(json.dumps(labels), encoding="utf-8")
        for split, fold in FOLDS.items():
            (folder / SPLIT.format(split)).write_text("".join(lists[fold]), encoding="utf-8")
        mark_synthetic(folder, INFO.title, seed)
    return path


def genus_shares(scene: Scene) -> list[tuple[str, float]]:
    """[(genus, share of the area), ...], the largest first."""
    counts = np.bincount(scene.view.cover.ravel() % len(GENERA), minlength=len(GENERA))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    return [(GENERA[k], float(counts[k] / counts.sum())) for k in order]


def _write_aerial(file: Path, scene: Scene) -> None:
    import rasterio

    sensor = get_sensor("aerial")
    _, image = photograph(scene, [sensor.band(name).wavelength or 0.0 for name in BANDS], PUBLISHED_EDGE)
    rim = (PUBLISHED_EDGE * AERIAL_GSD - PIXELS * 10.0) / 2
    grid = rasterio.Affine(AERIAL_GSD, 0, scene.corner[0] - rim, 0, -AERIAL_GSD, scene.corner[1] + rim)
    profile = {"count": len(image), "height": PUBLISHED_EDGE, "width": PUBLISHED_EDGE, "dtype": "uint8"}
    with rasterio.open(file, "w", driver="GTiff", crs=f"EPSG:{scene.epsg}", transform=grid, **profile) as out:
        out.write(image)


def _write_series(file: Path, scene: Scene) -> None:
    import h5py

    days, images, cloud = scene.s2
    masks = np.zeros((len(days), 10, PIXELS, PIXELS), np.float32)
    masks[:, 1] = np.rint(100 * cloud)
    arrays: dict[str, NDArray] = {"sen-2-data": images.astype(np.float32), "sen-2-masks": masks}
    products = {"sen-2": [f"S2A_MSIL2A_{_time(day)}_N0000_R000_T00XXX_{_time(day)}" for day in days.tolist()]}
    for orbit, key in (("s1-asc", "sen-1-asc"), ("s1-des", "sen-1-des")):
        days, decibel = scene.s1(orbit)
        arrays[f"{key}-data"] = np.float32(10) ** (decibel / 10)
        products[key] = [f"S1A_IW_GRDH_1SDV_{_time(day)}_{_time(day)}_000000_000000_0000" for day in days.tolist()]
    with h5py.File(file, "w") as out:
        for name, array in arrays.items():
            out.create_dataset(name, data=array)
        for name, texts in products.items():
            out.create_dataset(
                f"{name}-products", data=[text.encode() for text in texts], dtype=h5py.string_dtype("ascii")
            )


def _time(day: int) -> str:
    return f"{NEW_YEAR + timedelta(days=day):%Y%m%d}T103000"
