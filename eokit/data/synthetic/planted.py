"""Write SYNTHETIC patches in the layouts of PLANTED, so that the real reader reads them: shards, or AnySat's folders.

Called by `eokit prepare planted --synthetic` and by tests. Each species stands for one cover of the landscape.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eokit.data.formats.planted import INFO
from eokit.data.formats.planted_species import SPECIES
from eokit.data.formats.planted_tree import LABELS, MS_A_DAY
from eokit.data.sensors import get_sensor
from eokit.data.synthetic.copies import check_patches, mark_synthetic, new_copy
from eokit.data.synthetic.noise import Array
from eokit.data.synthetic.pastis import NEW_YEAR
from eokit.data.synthetic.scene import Scene, draw_scenes, mix
from eokit.progress import Progress

PIXELS = 12
STEPS = {"s2": 8, "s1": 8, "l7": 20, "alos": 4, "modis": 60}
"""Steps of every series: fixed, those that were not seen are masked."""
SPLITS = {1: "train", 2: "validation", 3: "test"}
ANGLE = 38.6
"""Degrees of incidence in the third channel of S1."""
CLEAR = 0.3
"""Cloud opacity above which a pixel is masked."""

Arrays = dict[str, NDArray]


def write_synthetic(path: Path, *, patches: int = 16, seed: int = 0, quiet: bool = True, shards: bool = True) -> Path:
    """Write SYNTHETIC patches in the layout of PLANTED to the new folder `path`; returns it.

    shards: a shard a split, else AnySat's folder a patch. The same arguments give the same bytes. Raises DataError
    where `path` is in use.
    """
    check_patches(patches)
    path = Path(path)
    with new_copy(path) as folder, Progress("draw the patches", patches, quiet=quiet) as bar:
        drawn: dict[int, dict[str, Arrays]] = {}
        for scene in draw_scenes(patches, PIXELS, seed, (38, 61)):
            drawn.setdefault(scene.fold, {})[f"{scene.number:07d}"] = _draw(scene)
            bar.advance()
        for fold, found in drawn.items():
            (_write_shard if shards else _write_folders)(folder, SPLITS[fold], found)
        mark_synthetic(folder, INFO.title, seed)
    return path


def species_of(scene: Scene) -> int:
    """The class of a patch: that of the cover with the most pixels."""
    return int(np.bincount(scene.view.cover.ravel()).argmax())


def _draw(scene: Scene) -> Arrays:
    """Every array of a patch, as a shard holds it for one row."""
    clear = scene.clearest(STEPS["l7"])
    chosen = np.sort(scene.rng(4).choice(scene.clearest(36), STEPS["s2"], replace=False))
    optical = scene.s2.images.astype(np.float32)
    seen = (scene.s2.cloud < CLEAR) & (scene.s2.images > 0).all(axis=1)
    days = scene.s2.days
    arrays = _series("s2", days[chosen], optical[chosen], seen[chosen])
    coarse, seen_coarse = _average(optical, 4), _average(seen[:, None], 4)[:, 0] > 0.5
    numbers = (mix(coarse[clear], _wavelengths("landsat-7-dn")) / 10_000 + 0.2) / 2.75e-5
    arrays |= _series("l7", days[clear], np.rint(numbers), seen_coarse[clear])
    every = np.arange(min(STEPS["modis"], len(days)))
    one, seen_one = _average(optical, 1), _average(seen[:, None], 1)[:, 0] > 0.5
    arrays |= _series("modis", days[every], mix(one[every], _wavelengths("modis")), seen_one[every])
    arrays |= _radar(scene)
    return arrays | {"species": np.array(SPECIES[species_of(scene)].encode(), "S32")}


def _radar(scene: Scene) -> Arrays:
    """S1 with the angle as third channel, and ALOS made of the other orbit with an offset like that of the real one."""
    days, decibel = scene.s1("s1-asc")
    at = np.linspace(0, len(days) - 1, STEPS["s1"]).astype(int)
    angle = ANGLE + scene.rng(5).standard_normal((len(at), 1, PIXELS, PIXELS), dtype=np.float32)
    arrays = _series(
        "s1", days[at], np.concatenate([decibel[at], angle], axis=1), np.ones((len(at), PIXELS, PIXELS), bool)
    )
    days, decibel = scene.s1("s1-des")
    at = np.linspace(0, len(days) - 1, STEPS["alos"]).astype(int)
    pair = _average(decibel[at], 4) + 100
    images = np.concatenate([pair, np.zeros_like(pair[:, :1])], axis=1)
    return arrays | _series("alos", days[at], images, np.ones((len(at), 4, 4), bool))


def _series(name: str, days: NDArray, images: Array, seen: NDArray[np.bool_]) -> Arrays:
    """Values (T, H, W, C), mask and timestamps of one modality; steps beyond those given are masked and have none."""
    steps, (count, bands, height, width) = STEPS[name], images.shape
    values, mask = np.zeros((2, steps, height, width, bands), np.float32)
    values[:count], mask[:count] = np.moveaxis(images, 1, -1), seen[..., None]
    stamps = np.zeros(steps, np.int64)
    stamps[:count] = (NEW_YEAR - date(1970, 1, 1)).days * MS_A_DAY + days.astype(np.int64) * MS_A_DAY
    return {name: values, f"{name}_mask": mask.astype(np.uint8), f"{name}_timestamps": stamps}


def _write_shard(folder: Path, split: str, found: dict[str, Arrays]) -> None:
    (folder / split).mkdir()
    rows = list(found.values())
    stacked: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez(folder / split / f"0000_d{len(rows):04d}.npz", **stacked)


def _write_folders(folder: Path, split: str, found: dict[str, Arrays]) -> None:
    split = "val" if split == "validation" else split
    classes = {}
    for id, arrays in found.items():
        (folder / split / id).mkdir(parents=True)
        classes[id] = SPECIES.index(arrays["species"].item().decode())
        for name, array in arrays.items():
            if name != "species":
                np.savez(folder / split / id / f"{id}_{name.removesuffix('s') if 'time' in name else name}.npz", array)
    (folder / split / LABELS).write_text(json.dumps(classes), encoding="utf-8")


def _average(images: NDArray, edge: int) -> Array:
    """(T, C, 12, 12) averaged over blocks to (T, C, edge, edge)."""
    block = PIXELS // edge
    return images.reshape(*images.shape[:2], edge, block, edge, block).mean(axis=(3, 5), dtype=np.float32)


def _wavelengths(sensor: str) -> list[float]:
    return [band.wavelength or 0.0 for band in get_sensor(sensor).bands]
