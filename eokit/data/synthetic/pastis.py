"""Write a SYNTHETIC season in the published layout of PASTIS-R, so that the real reader reads it.

Called by `eokit prepare synthetic`, by the demo and by tests. Needs pyproj (the `geo` extra) for the footprints.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eokit.data.crops import VOID
from eokit.data.preprocessing import SOURCE_NODATA
from eokit.data.synthetic.calendar import FIRST_CROP
from eokit.data.synthetic.copies import new_copy
from eokit.data.synthetic.landscape import MARGIN, PLACES, Season, View, class_of, draw_s1, draw_s2, draw_tile
from eokit.errors import ArgumentError, SetupError
from eokit.progress import Progress

NEW_YEAR = date(2019, 1, 1)
"""Day 0 of the synthetic calendar: PASTIS covers the harvest of 2019."""

GSD = 10.0
"""Metres of a pixel."""

FOLDERS = {"s2": "S2", "s1-asc": "S1A", "s1-des": "S1D"}
"""Modality to the name that PASTIS-R gives it in folders, files and properties."""

TITLE = "Synthetic season in the layout of PASTIS-R"

README = """SYNTHETIC data in the layout of PASTIS-R.

A random generator (eokit.data.synthetic, seed {seed}) drew everything here: parcels, crops, images and clouds.
No satellite saw this land and no farmer declared it. Scores on it say whether software works, nothing of how
well a model maps crops. metadata.geojson carries "synthetic": true.

TARGET: channel 0 holds the class, channels 1 and 2 are zero. ParcelIDs: ids by tile, one id over patch borders.
"""


def write_synthetic_pastis(
    path: Path,
    *,
    patches: int = 16,
    size: int = 128,
    seed: int = 0,
    dates: tuple[int, int] = (38, 61),
    modalities: Sequence[str] = tuple(FOLDERS),
    folds: int = 5,
    workers: int = 1,
    quiet: bool = True,
) -> Path:
    """Write a SYNTHETIC season in the layout of PASTIS-R to the new folder `path`; returns it.

    patches: how many, over two tiles; neighbours adjoin. size: pixels of 10 m along an edge. dates: least and most
    Sentinel-2 dates of a patch. modalities: of s2, s1-asc, s1-des. folds: patches go to folds 1..folds in blocks.
    quiet: no progress bar. The same arguments give the same bytes, whatever `workers` is. Raises ArgumentError for
    values that cannot be, DataError where `path` is in use, SetupError without pyproj, TargetError without room.
    """
    season = Season(patches, size, seed, (dates[0], dates[-1]), tuple(modalities), folds)
    _check(season)
    path = Path(path)
    with new_copy(path) as aside:
        _make_folders(aside, season)
        with Progress("draw the season", patches, quiet=quiet) as bar:
            written = []
            for one in _write_patches(aside, season, workers):
                written.append(one)
                bar.advance()
        _write_json(aside / "metadata.geojson", _metadata(season, written))
        for modality in season.modalities:
            _write_json(aside / f"NORM_{FOLDERS[modality]}_patch.json", _norm(season, written, modality))
        (aside / "README.txt").write_text(README.format(seed=seed), encoding="utf-8")
    return path


class Written(NamedTuple):
    """What a patch leaves for the metadata: properties, footprint in L93, per modality (count, sum, squares)."""

    properties: dict[str, Any]
    footprint: list[list[float]]
    moments: dict[str, NDArray[np.float64]]


def write_patch(folder: Path, season: Season, tile: int, number: int) -> Written:
    """Write the arrays of patch `number` of a tile; what the metadata need comes back."""
    name = (tile + 1) * 10000 + number
    land = draw_tile(season, tile)
    window = season.window(tile, number)
    view = View.of(land, window)
    labels = draw_labels(view)
    for where, array in labels.items():
        np.save(folder / f"{where}_{name}.npy", array)

    properties: dict[str, Any] = {
        "ID_PATCH": name,
        "Fold": _fold(season, tile, number),
        "N_Parcel": int(labels["INSTANCE_ANNOTATIONS/INSTANCES"].max()),
        "Parcel_Cover": round(float((labels["ANNOTATIONS/ParcelIDs"] != 0).mean()), 4),
        "TILE": land.place.tile,
    }
    moments = {}
    for part, modality in enumerate(FOLDERS):
        if modality not in season.modalities:
            continue
        rng = np.random.default_rng([season.seed, tile, number, 10 + part])
        days, images = draw_s2(view, rng) if modality == "s2" else draw_s1(view, modality, rng)
        short = FOLDERS[modality]
        np.save(folder / f"DATA_{short}" / f"{short}_{name}.npy", images)
        properties[f"dates-{short}"] = {str(at): _yyyymmdd(int(day)) for at, day in enumerate(days)}
        moments[modality] = _moments(images)
    return Written(properties, _footprint(land.place.epsg, *_corner(season, tile, window), season.size), moments)


def draw_labels(view: View) -> dict[str, NDArray[np.generic]]:
    """The annotation arrays of a patch by folder and file stem; parcels mostly outside the patch are void."""
    declared = class_of(view.cover) > 0
    parcel = np.where(declared, view.rows[view.row] - FIRST_CROP + 1, 0).astype(np.int32)
    inside = np.bincount(view.row.ravel(), minlength=len(view.rows))
    mostly_outside = (2 * inside < view.tile.area[view.rows])[view.row] & declared
    semantic = np.where(mostly_outside, VOID, class_of(view.cover))
    target = np.zeros((3, *parcel.shape), dtype=np.uint8)
    target[0] = semantic
    _, instance = np.unique(np.append(0, parcel), return_inverse=True)  # the 0 in front: background is instance 0
    return {
        "ANNOTATIONS/TARGET": target,
        "ANNOTATIONS/ParcelIDs": parcel,
        "INSTANCE_ANNOTATIONS/INSTANCES": instance[1:].reshape(parcel.shape).astype(np.int32),
    }


def _write_patches(folder: Path, season: Season, workers: int) -> Iterator[Written]:
    jobs = [(tile, number) for tile in range(len(PLACES)) for number in range(season.patches_of(tile))]
    if workers <= 1:
        yield from (write_patch(folder, season, *job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(write_patch, folder, season, *job) for job in jobs]
        yield from (future.result() for future in futures)


def _check(season: Season) -> None:
    unknown = [name for name in season.modalities if name not in FOLDERS]
    if unknown or not season.modalities:
        raise ArgumentError(f"modalities={season.modalities!r}: expected some of {', '.join(FOLDERS)}")
    if not 1 <= season.patches <= 9999 * len(PLACES):
        raise ArgumentError(f"patches={season.patches}: expected 1 to {9999 * len(PLACES)}, ids have five digits")
    if season.size < 8:
        raise ArgumentError(f"size={season.size}: expected at least 8 pixels, a field is about 15 across")
    if not 1 <= season.dates[0] <= season.dates[1]:
        raise ArgumentError(f"dates={season.dates}: expected the least and the most dates of a patch, as (38, 61)")
    if season.folds < 1:
        raise ArgumentError(f"folds={season.folds}: expected at least 1")
    try:
        import pyproj  # noqa: F401
    except ImportError:
        raise SetupError("the footprints of a synthetic season need pyproj: pip install 'eokit[geo]'") from None


def _make_folders(path: Path, season: Season) -> None:
    for name in ("ANNOTATIONS", "INSTANCE_ANNOTATIONS", *(f"DATA_{FOLDERS[one]}" for one in season.modalities)):
        (path / name).mkdir(parents=True)


def _fold(season: Season, tile: int, number: int) -> int:
    """Neighbours share a fold where there are patches enough, so that folds are blocks of land."""
    count = season.patches_of(tile)
    if count >= season.folds:
        return 1 + number * season.folds // count
    before = sum(season.patches_of(other) for other in range(tile))
    return 1 + (before + number) % season.folds


def _corner(season: Season, tile: int, window: tuple[int, int, int, int]) -> tuple[float, float]:
    """Easting and northing of the north-western corner of a patch, metres."""
    east, north = PLACES[tile].corner
    return east + (window[1] - MARGIN) * GSD, north - (window[0] - MARGIN) * GSD


def _footprint(epsg: int, east: float, north: float, size: int) -> list[list[float]]:
    """The ring of a patch in Lambert-93: a square in UTM, a little turned here."""
    from pyproj import Transformer

    to_l93 = Transformer.from_crs(epsg, 2154, always_xy=True)
    edge = size * GSD
    ring = [(0, 0), (edge, 0), (edge, -edge), (0, -edge), (0, 0)]
    return [list(to_l93.transform(east + dx, north + dy)) for dx, dy in ring]


def _metadata(season: Season, written: list[Written]) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "id": str(one.properties["ID_PATCH"]),
            "properties": one.properties,
            "geometry": {"type": "MultiPolygon", "coordinates": [[one.footprint]]},
        }
        for one in written
    ]
    return {
        "type": "FeatureCollection",
        "name": TITLE,
        "title": TITLE,
        "licence": "none: synthetic data",
        "citation": "none: synthetic data",
        "synthetic": True,
        "seed": season.seed,
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}},
        "features": features,
    }


def _moments(images: NDArray[np.generic]) -> NDArray[np.float64]:
    """Count, sum and sum of squares of each channel over what is not nodata: (3, C)."""
    totals = np.zeros((3, images.shape[1]))
    for image in images:  # one date at a time stays in the cache, and float32 sums stay exact enough
        pixels = image.reshape(len(image), -1).astype(np.float32)
        pixels = pixels[:, pixels[0] > SOURCE_NODATA]
        totals += np.stack([np.full(len(image), pixels.shape[1]), pixels.sum(1), (pixels * pixels).sum(1)])
    return totals


def _norm(season: Season, written: list[Written], modality: str) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation per fold, as the NORM files of PASTIS hold them."""
    norm = {}
    for fold in range(1, season.folds + 1):
        parts = [one.moments[modality] for one in written if one.properties["Fold"] == fold]
        if parts:
            count, total, squares = np.sum(parts, axis=0)
            mean = total / count
            std = np.sqrt(squares / count - mean**2)
            norm[f"Fold_{fold}"] = {"mean": mean.round(6).tolist(), "std": std.round(6).tolist()}
    return norm


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def _yyyymmdd(day: int) -> int:
    return int((NEW_YEAR + timedelta(days=day)).strftime("%Y%m%d"))
