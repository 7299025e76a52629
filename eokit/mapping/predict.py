"""`eokit predict`: the settings of a map, what it is drawn of and where it goes. The drawing is in `draw`.

A store whose samples lie in several coordinate systems gives one map for each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from eokit.config import Settings
from eokit.data.find import only_store
from eokit.errors import DataError, Interrupted, UsageError, WeightsError
from eokit.mapping.draw import Plan, draw
from eokit.mapping.dry_run import MapCost, estimate
from eokit.mapping.folder import SUFFIXES, open_folder
from eokit.mapping.geotiff import Reading
from eokit.mapping.inference import Predictor, load_predictor
from eokit.mapping.patches import Shown, open_store
from eokit.mapping.scene import Area
from eokit.mapping.summary import MapResult
from eokit.mapping.tiles import check_tiling
from eokit.models.bundle import OpenPreprocessing, newest_bundle

MOSTLY_EMPTY = 0.5
"""A map of which less is covered by patches gets a remark."""
GDAL_CACHE_MB = 256
"""GDAL's own default is 5 % of the machine's memory, which alone can pass the 2 GiB that a map may take."""
TILE = 128
"""Pixels along a tile for a model that does not say what it learned from."""
OF_GEOTIFFS = ("bands", "scale", "offset", "nodata")
"""Settings that say how GeoTIFFs are read."""


class PredictSettings(Settings):
    """Everything that `eokit predict` can be told."""

    bundle: Path | None = Field(default=None, description="null: the newest in ./runs")
    source: Path = Field(default_factory=only_store, description="a store, or a folder of dated GeoTIFFs")
    out: Path | None = Field(default=None, description="the map; null: the source's name with .tif, in this folder")
    tile: int | None = Field(
        None, gt=0, description="pixels along a tile, a multiple of the model's patch; null: as the model learned"
    )
    overlap: int | None = Field(
        None, ge=0, description="pixels that neighbouring tiles share, a multiple of the model's patch; null: a quarter"
    )
    batch_size: int = Field(0, ge=0, description="tiles at once; 0: by the number of dates")
    workers: int = Field(2, ge=0, description="threads that read ahead")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    bands: tuple[str, ...] | None = Field(None, description="bands of the GeoTIFFs in order; null: what the files say")
    scale: float = Field(1.0, allow_inf_nan=False, description="GeoTIFF values are multiplied by this")
    offset: float = Field(0.0, allow_inf_nan=False, description="and this is added")
    nodata: float | None = Field(None, description="value of unseen pixels, where the GeoTIFFs do not say")
    dates: int | None = Field(
        None, gt=0, description="at most so many dates, evenly spaced; null: as the model learned"
    )
    folds: tuple[int, ...] | None = Field(None, description="only these folds of a store")
    limit: int | None = Field(None, gt=0, description="rows of tiles of a scene, or samples of a store")
    resume: bool = Field(False, description="continue an interrupted map")
    overwrite: bool = Field(False, description="replace a map that is there")
    quiet: bool = False


def predict(settings: PredictSettings) -> list[MapResult]:
    """Draw the map of `settings.source` with the bundle's model."""
    _check_target(_out(settings), settings)
    return predict_with(load_predictor(settings.bundle or newest_bundle(), settings.device), settings)


def predict_with(predictor: Predictor, settings: PredictSettings) -> list[MapResult]:
    """`predict` with a model that is loaded already (`settings.bundle` and `settings.device` are not read)."""
    settings = _as_learned(settings, predictor)
    with _gdal():
        maps, plan = _lay_out(settings, predictor), _plan(settings)
        try:
            return [draw(predictor, area, out, plan) for area, out in maps]
        except KeyboardInterrupt:
            raise Interrupted(
                f"{_out(settings)}: interrupted, finished rows are kept; run the same command with --resume"
            ) from None


def try_out(settings: PredictSettings) -> list[MapCost]:
    """What each map of `predict` would be and take, from file headers and random numbers; writes nothing."""
    _check_target(_out(settings), settings)
    predictor = load_predictor(settings.bundle or newest_bundle(), settings.device)
    settings = _as_learned(settings, predictor)
    cache = 0 if _is_store(settings.source) else GDAL_CACHE_MB << 20
    with _gdal():
        maps, plan = _lay_out(settings, predictor), _plan(settings)
        return [estimate(predictor, area, out, plan, cache) for area, out in maps]


@contextmanager
def _gdal() -> Iterator[None]:
    """GDAL with a bounded cache, its complaints kept for our own errors."""
    import rasterio

    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        yield


def _lay_out(settings: PredictSettings, predictor: Predictor) -> list[tuple[Area, Path]]:
    """What is drawn and where to; none of it is there already."""
    areas = _open_source(settings, predictor)
    areas = [replace(area, notes=(*area.notes, *_remarks(area, predictor.learned, settings))) for area in areas]
    outs = [_out_path(_out(settings), area, len(areas)) for area in areas]
    for out in outs:
        _check_target(out, settings)
    return list(zip(areas, outs, strict=True))


def _remarks(area: Area, learned: Mapping[str, Any], settings: PredictSettings) -> Iterator[str]:
    """What a reader of the map has to know and would not see in it."""
    drawn = sum(one.scene.height * one.scene.width for one in area.scenes) / (area.height * area.width)
    if drawn < MOSTLY_EMPTY:
        yield f"the patches lie far apart: {100 - 100 * drawn:.1f} % of {area.height:,} x {area.width:,} px stay empty"
    patches, folds = learned.get("train_patches"), learned.get("train_folds")
    if not patches or not folds:
        return
    if not _is_store(settings.source):
        yield f"the model learned from {patches} patches of {learned.get('dataset')}; elsewhere it guesses"
    elif settings.folds is None:
        known = ", ".join(map(str, folds))
        yield f"all folds are drawn, those that the model learned from ({known}) too; --folds chooses"


def _as_learned(settings: PredictSettings, predictor: Predictor) -> PredictSettings:
    """Settings with the tile and the dates that the model learned from, where none are given; checked."""
    tile = settings.tile or predictor.size or TILE
    patch = predictor.patch_size
    overlap = tile // 4 // patch * patch if settings.overlap is None else settings.overlap
    check_tiling(tile, overlap, patch)
    return settings.model_copy(update={"tile": tile, "overlap": overlap, "dates": settings.dates or predictor.dates})


def _open_source(settings: PredictSettings, predictor: Predictor) -> list[Area]:
    """The areas of a store or of a folder of GeoTIFFs, told apart by what is inside."""
    source = settings.source
    if _is_store(source):
        _check_store_settings(settings)
        shown = Shown(predictor.label, predictor.classes)
        return open_store(source, predictor.preprocessing, settings.folds, settings.limit, shown)
    if settings.folds is not None:
        raise UsageError(f"--folds {','.join(map(str, settings.folds))}: {source} is no store, only stores have folds")
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise DataError(f"{source}: {what}; give a store, or a folder of dated GeoTIFFs")
    if isinstance(predictor.preprocessing, OpenPreprocessing):
        raise WeightsError(
            f"{source}: GeoTIFFs bring no statistics and the bundle has none; convert its weights again with"
            " `eokit models convert --data STORE`, which puts those of a store in"
        )
    reading = Reading(settings.bands, settings.scale, settings.offset, settings.nodata)
    return [open_folder(source, predictor.preprocessing, reading)]


def _check_store_settings(settings: PredictSettings) -> None:
    """Refuse what is said of GeoTIFFs where the source is a store."""
    for name in OF_GEOTIFFS:
        value = getattr(settings, name)
        if value != PredictSettings.model_fields[name].default:
            given = ",".join(value) if isinstance(value, tuple) else f"{value:g}"
            raise UsageError(f"--{name} {given}: {settings.source} is a store, which says itself how it is read")


def _is_store(source: Path) -> bool:
    return (source / "zarr.json").is_file()


def _plan(settings: PredictSettings) -> Plan:
    same = ("tile", "overlap", "batch_size", "dates", "workers", "resume", "overwrite", "quiet")
    rows = None if _is_store(settings.source) else settings.limit
    return Plan(rows=rows, **{name: getattr(settings, name) for name in same})


def _out(settings: PredictSettings) -> Path:
    return settings.out or Path(f"{settings.source.stem or 'map'}.tif")


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
