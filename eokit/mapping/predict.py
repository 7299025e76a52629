"""`eokit predict`: the settings of a map, what it is drawn of and where it goes. The drawing is in `draw`.

A store whose samples lie in several coordinate systems gives one map for each.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from eokit.config import Settings
from eokit.data.preprocessing import Preprocessing
from eokit.errors import DataError, Interrupted, UsageError
from eokit.mapping.draw import Plan, draw
from eokit.mapping.folder import open_folder
from eokit.mapping.geotiff import Reading
from eokit.mapping.inference import Predictor, load_predictor
from eokit.mapping.patches import open_store
from eokit.mapping.scene import Area
from eokit.mapping.summary import MapResult
from eokit.mapping.tiles import check_tiling

GDAL_CACHE_MB = 256
"""GDAL's own default is 5 % of the machine's memory, which alone can pass the 2 GiB that a map may take."""
SUFFIXES = (".tif", ".tiff")


class PredictSettings(Settings):
    """Everything that `eokit predict` can be told. `tile`, `overlap`: pixels. `batch_size`: tiles, 0 = automatic.

    bands, scale, offset, nodata: see `eokit.mapping.geotiff.Reading`. limit: rows of tiles of a scene, samples of a
    store.
    """

    bundle: Path
    source: Path
    out: Path
    tile: Annotated[int, Field(gt=0)] = 128
    overlap: Annotated[int, Field(ge=0)] = 32
    batch_size: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, Field(ge=0)] = 2
    device: str = "auto"
    bands: tuple[str, ...] | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    folds: tuple[int, ...] | None = None
    limit: Annotated[int, Field(gt=0)] | None = None
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


def predict(settings: PredictSettings) -> list[MapResult]:
    """Draw the map of `settings.source` with the bundle's model."""
    _check_target(settings.out, settings)
    return predict_with(load_predictor(settings.bundle, settings.device), settings)


def predict_with(predictor: Predictor, settings: PredictSettings) -> list[MapResult]:
    """`predict` with a model that is loaded already (`settings.bundle` and `settings.device` are not read)."""
    import rasterio

    check_tiling(settings.tile, settings.overlap, predictor.patch_size)
    logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL's complaints are in our own errors
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        areas = _open_source(settings, predictor.preprocessing)
        outs = [_out_path(settings.out, area, len(areas)) for area in areas]
        for out in outs:
            _check_target(out, settings)
        plan = _plan(settings)
        try:
            return [draw(predictor, area, out, plan) for area, out in zip(areas, outs, strict=True)]
        except KeyboardInterrupt:
            raise Interrupted(
                f"{settings.out}: interrupted, finished rows are kept; run the same command with --resume"
            ) from None


def _open_source(settings: PredictSettings, preprocessing: Preprocessing) -> list[Area]:
    """The areas of a store or of a folder of GeoTIFFs, told apart by what is inside."""
    source = settings.source
    if _is_store(source):
        return open_store(source, preprocessing, settings.folds, settings.limit)
    if settings.folds is not None:
        raise UsageError(f"--folds {','.join(map(str, settings.folds))}: {source} is no store, only stores have folds")
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise DataError(f"{source}: {what}; give a store, or a folder of dated GeoTIFFs")
    reading = Reading(settings.bands, settings.scale, settings.offset, settings.nodata)
    return [open_folder(source, preprocessing, reading)]


def _is_store(source: Path) -> bool:
    return (source / "zarr.json").is_file()


def _plan(settings: PredictSettings) -> Plan:
    same = ("tile", "overlap", "batch_size", "workers", "resume", "overwrite", "quiet")
    rows = None if _is_store(settings.source) else settings.limit
    return Plan(rows=rows, **{name: getattr(settings, name) for name in same})


def _out_path(out: Path, area: Area, n_areas: int) -> Path:
    """`out`, or with the EPSG code in its name where there is one map per coordinate system."""
    return out if n_areas == 1 else out.with_name(f"{out.stem}_{area.crs.rpartition(':')[2]}{out.suffix}")


def _check_target(out: Path, settings: PredictSettings) -> None:
    """Refuse a map that would replace another one, before any work."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: a map is a GeoTIFF; give a name that ends in .tif")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give the name of the map to write")
    if out.exists() and not (settings.overwrite or settings.resume):
        raise UsageError(f"{out}: is there already; add --overwrite to replace it")
