"""`eokit predict`: from a bundle and a scene to a map on disk, one strip of tiles at a time.

    source --open_source--> areas --plan_strips--> tiles --prepare (threads)--> batches --model--> probabilities
           --Blender--> finished rows --PartialMap--> COG, picture, summary

Memory does not grow with the height of a scene: one strip of probabilities and a few batches are held.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from eokit import __version__
from eokit.config import Settings
from eokit.data.preprocessing import Preprocessing
from eokit.errors import DataError, Interrupted, UsageError
from eokit.mapping.cog import confidence_path, read_tags, write_class_map, write_confidence
from eokit.mapping.folder import open_folder
from eokit.mapping.geotiff import Reading
from eokit.mapping.inference import Predictor, Prepared, load_predictor, prepare, probabilities, read_ahead
from eokit.mapping.patches import open_store
from eokit.mapping.picture import views_of
from eokit.mapping.progress_file import PartialMap
from eokit.mapping.scene import Area
from eokit.mapping.summary import MapResult, class_areas, tally
from eokit.mapping.tiles import UNSEEN, Blender, Strip, batches, blend_weights, check_tiling, plan_strips
from eokit.progress import Progress
from eokit.viz.map import LegendEntry, class_colors, draw_map

GDAL_CACHE_MB = 256
"""GDAL's own default is 5 % of the machine's memory, which alone can pass the 2 GiB that a map may take."""
PIXEL_DATES = 1 << 20
"""Pixels x dates of one batch where --batch-size is not given: 64 dates of one tile of 128 px, or 8 dates of 8 tiles."""
MOST_TILES = 16
MADE_OF_TAG = "EOKIT_MADE_OF"


class PredictSettings(Settings):
    """Everything that `eokit predict` can be told. Pixels for `tile` and `overlap`, 0 = auto for `batch_size`."""

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
    picture: bool = True
    quiet: bool = False


def predict(settings: PredictSettings) -> list[MapResult]:
    """Draw the map of `settings.source`; a store whose samples lie in several coordinate systems gives several maps."""
    check_target(settings.out, settings)
    predictor = load_predictor(settings.bundle, settings.device)
    return predict_with(predictor, settings)


def predict_with(predictor: Predictor, settings: PredictSettings) -> list[MapResult]:
    """`predict` with a model that is loaded already."""
    import rasterio

    check_tiling(settings.tile, settings.overlap, predictor.patch_size)
    logging.getLogger("rasterio").addHandler(logging.NullHandler())  # what GDAL grumbles about is in our own errors
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        areas = open_source(settings, predictor.preprocessing)
        outs = [out_path(settings.out, area, len(areas)) for area in areas]
        for out in outs:
            check_target(out, settings)
        try:
            return [draw(predictor, area, out, settings) for area, out in zip(areas, outs, strict=True)]
        except KeyboardInterrupt:
            raise Interrupted(
                f"{settings.out}: interrupted, finished rows are kept; run the same command with --resume"
            ) from None


def open_source(settings: PredictSettings, preprocessing: Preprocessing) -> list[Area]:
    """The areas of a store or of a folder of GeoTIFFs, told apart by what is inside."""
    source = settings.source
    if (source / "zarr.json").is_file():
        return open_store(source, preprocessing, settings.folds, settings.limit)
    if settings.folds is not None:
        raise UsageError(f"--folds {','.join(map(str, settings.folds))}: {source} is no store, only stores have folds")
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise DataError(f"{source}: {what}; give a store, or a folder of dated GeoTIFFs")
    reading = Reading(settings.bands, settings.scale, settings.offset, settings.nodata)
    return [open_folder(source, preprocessing, reading)]


def out_path(out: Path, area: Area, n_areas: int) -> Path:
    """`out`, or with the EPSG code in its name where there is one map per coordinate system."""
    if n_areas == 1:
        return out
    return out.with_name(f"{out.stem}_{area.crs.rpartition(':')[2]}{out.suffix}")


def check_target(out: Path, settings: PredictSettings) -> None:
    """Refuse a map that would replace another one, before any work."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"{out}: a map is a GeoTIFF; give a name that ends in .tif")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give the name of the map to write")
    if out.exists() and not (settings.overwrite or settings.resume):
        raise UsageError(f"{out}: is there already; add --overwrite to replace it")


def draw(predictor: Predictor, area: Area, out: Path, settings: PredictSettings) -> MapResult:
    """Draw one area into `out`, its confidence and its picture."""
    started = time.monotonic()
    strips = plan_strips(area.scenes, settings.tile, settings.overlap)
    is_store = settings.folds is not None or len(area.scenes) > 1
    partial_view = not is_store and settings.limit is not None and settings.limit < len(strips)
    if partial_view:
        strips = strips[: settings.limit]
    made_of = _made_of(predictor, area, settings)
    if settings.resume and out.exists():
        _check_finished(out, made_of)
        return _result(predictor, area, out, partial_view, (0.0, 0, 0))
    partial = PartialMap(out, (area.height, area.width), made_of, resume=settings.resume, overwrite=settings.overwrite)
    tiles, pixels = _fill(partial, predictor, area, strips, settings)
    tags = _tags(predictor, area, made_of, partial_view)
    write_confidence(partial, area, confidence_path(out), tags)
    write_class_map(partial, area, out, predictor.classes, class_colors(predictor.classes), tags)
    partial.remove()
    if settings.picture:
        _picture(predictor, area, out, strips[-1].bottom)
    return _result(predictor, area, out, partial_view, (time.monotonic() - started, tiles, pixels))


def _fill(
    partial: PartialMap, predictor: Predictor, area: Area, strips: Sequence[Strip], settings: PredictSettings
) -> tuple[int, int]:
    """Predict every tile that reaches below the finished rows; returns tiles and pixels of this run."""
    todo = [strip for strip in strips if strip.bottom > partial.rows_done]
    rows = max((strip.bottom - strip.top for strip in strips), default=0)
    blender = Blender(len(predictor.classes), rows, area.width)
    size = settings.batch_size or _batch_size(area, settings.tile)
    jobs = [(strip, batch) for strip in todo for batch in batches(strip.tiles, size)]
    total, pixels, started = sum(len(batch) for _, batch in jobs), 0, time.monotonic()

    def make(job: tuple[Strip, Sequence]) -> tuple[Strip, Prepared]:
        return job[0], prepare(job[1], predictor.preprocessing, predictor.patch_size)

    with Progress(f"predict {area.height:,} x {area.width:,} px", total, quiet=settings.quiet) as bar:
        for strip, prepared in read_ahead(make, jobs, settings.workers):
            for finished in blender.advance(strip.top):
                partial.write(*finished)
            if prepared.batch is not None:
                _blend(blender, prepared, probabilities(predictor, prepared), settings.overlap)
                pixels += int(prepared.seen.sum())
            bar.advance(prepared.read, px_s=pixels / max(time.monotonic() - started, 1e-9))
        for finished in blender.advance(area.height):
            partial.write(*finished)
    return total, pixels


def _blend(blender: Blender, prepared: Prepared, shares, overlap: int) -> None:
    weights = blend_weights(*prepared.seen.shape[1:], overlap)
    for tile, seen, one in zip(prepared.tiles, prepared.seen, shares, strict=True):
        blender.add(tile.top, tile.left, one, weights * seen)


def _batch_size(area: Area, tile: int) -> int:
    """Tiles a batch, so that memory does not grow with the number of dates."""
    dates = max(sum(len(days) for days in one.scene.days.values()) for one in area.scenes)
    return max(1, min(MOST_TILES, PIXEL_DATES // (max(dates, 1) * tile * tile)))


def _made_of(predictor: Predictor, area: Area, settings: PredictSettings) -> dict:
    """What a map depends on: it is continued only where all of this is the same."""
    chosen = ("tile", "overlap", "batch_size", "limit")
    return {
        "eokit": __version__,
        "bundle": predictor.identity,
        "device": predictor.device.type,
        "grid": [area.height, area.width, *area.transform],
        **{name: getattr(settings, name) for name in chosen},
        "source": area.identity,
    }


def _fingerprint(made_of: dict) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def _check_finished(out: Path, made_of: dict) -> None:
    if read_tags(out).get(MADE_OF_TAG) != _fingerprint(made_of):
        raise UsageError(
            f"{out}: is there already and was made by another model, of other data or with other settings, so there is"
            " nothing to continue; add --overwrite to replace it"
        )


def _tags(predictor: Predictor, area: Area, made_of: dict, partial: bool) -> dict[str, str]:
    tags = {
        "TIFFTAG_SOFTWARE": f"eokit {__version__}",
        MADE_OF_TAG: _fingerprint(made_of),
        "BUNDLE": predictor.identity,
    }
    if partial:
        tags["PARTIAL"] = "yes: drawn with --limit"
    if predictor.synthetic or area.synthetic:
        tags["SYNTHETIC"] = "yes"
    return tags


def _result(predictor: Predictor, area: Area, out: Path, partial: bool, run: tuple[float, int, int]) -> MapResult:
    """`run`: seconds, tiles and pixels of this run."""
    seconds, tiles, pixels = run
    counted = tally(area, out, confidence_path(out))
    seen = counted.pixels[:UNSEEN].sum()
    picture = out.with_suffix(".png")
    return MapResult(
        path=out,
        confidence=confidence_path(out),
        picture=picture if picture.exists() else None,
        crs=_crs_name(area.crs),
        size=(area.height, area.width),
        classes=class_areas(counted, predictor.classes),
        unseen_share=round(float(counted.pixels[UNSEEN] / counted.pixels.sum()), 6),
        mean_confidence=round(float(counted.confidence[:UNSEEN].sum() / seen), 2) if seen else None,
        seconds=round(seconds, 3),
        tiles=tiles,
        pixels_per_second=round(pixels / seconds, 1) if seconds else None,
        partial=partial,
        synthetic=predictor.synthetic or area.synthetic,
        notes=area.notes,
    )


def _crs_name(crs: str) -> str:
    from rasterio.crs import CRS

    return CRS.from_user_input(crs).to_string()


def _picture(predictor: Predictor, area: Area, out: Path, bottom: int) -> None:
    """The PNG beside the map."""
    counted = {one.name: one.share for one in class_areas(tally(area, out, confidence_path(out)), predictor.classes)}
    colours = class_colors(predictor.classes)
    legend = [
        LegendEntry(number, name, colours[number], counted[name])
        for number, name in enumerate(predictor.classes)
        if name in counted
    ]
    legend.sort(key=lambda entry: -entry.share)
    views = views_of(area, out, predictor.preprocessing, bottom)
    draw_map(out.with_suffix(".png"), views, legend, out.name, predictor.synthetic or area.synthetic)
