"""Write SYNTHETIC patches in the published layout of FLAIR-2, so that the real reader reads them.

Called by `eokit prepare flair --synthetic` and by tests. Two images share the series of an area, a domain has one area.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eokit.data.formats.flair import INFO
from eokit.data.formats.flair_tree import CENTROIDS, FOLDS, GSD, METADATA, PARTS, PUBLISHED_EDGE, SERIES_EDGE, SPLITS
from eokit.data.sensors import get_sensor
from eokit.data.synthetic.calendar import COVERS, FIRST_CROP
from eokit.data.synthetic.copies import check_patches, mark_synthetic, new_copy
from eokit.data.synthetic.fields import Ground
from eokit.data.synthetic.pastis import NEW_YEAR
from eokit.data.synthetic.scene import Scene, draw_scenes, photograph, repeat
from eokit.progress import Progress

AREA = 40
"""Pixels along an edge of a super-patch."""
CENTRES = ((11, 12), (28, 27))
"""Row and column of the images in their super-patch."""

_CROPS = {1: 10, 3: 12, 7: 12, 8: 9, 14: 10, 15: 12, 16: 8, 17: 19, 18: 12}
"""Crop of the landscape -> value of FLAIR: meadows herbaceous, late crops plowed land; all others agricultural, 11."""
_GROUND = {Ground.MARGIN: 10, Ground.BROADLEAF: 7, Ground.CONIFER: 6, Ground.WATER: 5, Ground.BUILT: 1}
VALUES = np.array(
    [
        _GROUND[Ground(row + 1)] if row < FIRST_CROP else _CROPS.get(crop.class_id, 11)
        for row, crop in enumerate(COVERS)
    ],
    np.uint8,
)
"""Published label value of every cover."""
HEIGHTS = {1: 8.0, 6: 18.0, 7: 15.0, 8: 2.0, 9: 1.5}
"""Metres above the ground of label values that stand up."""


def write_synthetic(path: Path, *, patches: int = 16, seed: int = 0, quiet: bool = True) -> Path:
    """Write SYNTHETIC patches in the layout of FLAIR-2 to the new folder `path`; returns it.

    The same arguments give the same bytes. Raises DataError where `path` is in use.
    """
    check_patches(patches)
    path, areas = Path(path), -(-patches // len(CENTRES))
    with new_copy(path) as folder, Progress("draw the areas", areas, quiet=quiet) as bar:
        centroids: dict[str, list[int]] = {}
        metadata: dict[str, dict[str, Any]] = {}
        splits: dict[str, list[str]] = {name: [] for name in FOLDS}
        for scene in draw_scenes(areas, AREA, seed, (38, 61)):
            domain = f"D{scene.number:03d}_{NEW_YEAR.year}"
            splits[next(name for name, fold in FOLDS.items() if fold == scene.fold)].append(domain)
            _write_series(folder, scene, domain)
            for number in range(min(len(CENTRES), patches - len(centroids))):
                name = f"{len(centroids):06d}"
                day = _write_image(folder, scene, domain, name, CENTRES[number])
                centroids[f"IMG_{name}.tif"] = list(CENTRES[number])
                metadata[f"IMG_{name}"] = {"domain": domain, "date": f"{NEW_YEAR + timedelta(days=day)}"}
            bar.advance()
        for file, table in ((CENTROIDS, centroids), (METADATA, metadata), (SPLITS, splits)):
            (folder / file).write_text(json.dumps(table), encoding="utf-8")
        mark_synthetic(folder, INFO.title, seed)
    return path


def _write_series(folder: Path, scene: Scene, domain: str) -> None:
    """The super-patch of an area: data, probabilities of snow and cloud, product names."""
    place = folder / PARTS[scene.fold == FOLDS["test"]].sentinel / domain / "Z1_NN" / "sen"
    place.mkdir(parents=True)
    stem = f"SEN2_sp_{domain}-Z1_NN"
    days, images, cloud = scene.s2
    unseen = (images < 0).any(axis=1)
    masks = np.zeros((len(days), 2, AREA, AREA), np.uint8)
    masks[:, 1] = np.where(unseen, 100, np.rint(100 * cloud))
    np.save(place / f"{stem}_data.npy", np.maximum(images, 0).astype(np.uint16))
    np.save(place / f"{stem}_masks.npy", masks)
    times = [f"{NEW_YEAR + timedelta(days=day):%Y%m%d}T103000" for day in days.tolist()]
    (place / f"{stem}_products.txt").write_text(
        "".join(f"S2A_MSIL2A_{time}_N0000_R000_T00XXX_{time}\n" for time in times)
    )


def _write_image(folder: Path, scene: Scene, domain: str, name: str, centre: tuple[int, int]) -> int:
    """The image and the label around `centre` (row, column); gives the image's day, from 1 January."""
    part = PARTS[scene.fold == FOLDS["test"]]
    row, column = (one - SERIES_EDGE // 2 for one in centre)
    window = slice(row, row + SERIES_EDGE), slice(column, column + SERIES_EDGE)
    label = repeat(VALUES[scene.view.cover[window]], PUBLISHED_EDGE)
    wavelengths = [band.wavelength or 0.0 for band in get_sensor("aerial-flair").bands[:4]]
    day, image = photograph(scene, wavelengths, PUBLISHED_EDGE, window)
    height = np.array([HEIGHTS.get(value, 0.0) for value in range(20)])[label]
    height = 5 * height * (1 + 0.2 * scene.rng(8).standard_normal(label.shape)) + scene.rng(9).uniform(
        0, 2, label.shape
    )
    corner = scene.corner[0] + 10 * column - 1.2, scene.corner[1] - 10 * row + 1.2
    bands = np.concatenate([image, np.clip(height, 0, 255).astype(np.uint8)[None]])
    for kind, prefix, inner, pixels in ((part.aerial, "IMG", "img", bands), (part.labels, "MSK", "msk", label[None])):
        file = folder / kind / domain / "Z1_NN" / inner / f"{prefix}_{name}.tif"
        _write_tif(file, pixels, scene.epsg, corner)
    return day


def _write_tif(file: Path, pixels: NDArray[np.uint8], epsg: int, corner: tuple[float, float]) -> None:
    import rasterio

    file.parent.mkdir(parents=True, exist_ok=True)
    grid = rasterio.Affine(GSD, 0, corner[0], 0, -GSD, corner[1])
    size = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "uint8"}
    with rasterio.open(
        file, "w", driver="GTiff", crs=f"EPSG:{epsg}", transform=grid, compress="deflate", **size
    ) as out:
        out.write(pixels)
