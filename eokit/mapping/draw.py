"""Draws one area into its files: tiles in strips, blended, written row by row, then made a COG with its picture.

    plan_strips --> tiles --prepare (threads)--> batches --model--> probabilities
                --Blender--> finished rows --PartialMap--> COG, picture, summary

Memory does not grow with the height of a scene: one strip of probabilities and a few batches are held.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eokit import __version__
from eokit.errors import UsageError
from eokit.mapping.cog import confidence_path, read_tags, write_class_map, write_confidence
from eokit.mapping.inference import Predictor, Prepared, prepare, probabilities, read_ahead
from eokit.mapping.picture import shown_of, views_of
from eokit.mapping.progress_file import PartialMap
from eokit.mapping.scene import SYNTHETIC_TAG, Area
from eokit.mapping.summary import ClassArea, MapResult, class_areas, tally
from eokit.mapping.tiles import Blender, Strip, Tile, batches, blend_weights, plan_strips
from eokit.progress import Progress
from eokit.viz.colors import class_colors
from eokit.viz.map import UNSEEN, Legend, LegendEntry, View, draw_map

PIXEL_DATES = 1 << 20
"""Pixels x dates of a batch of automatic size: 64 dates of one tile of 128 px, or 8 dates of 8 tiles."""
MOST_TILES = 16
"""Tiles of a batch of automatic size, however few the dates."""
MADE_OF_TAG = "EOKIT_MADE_OF"
"""The tag of a map that tells what it was made of, so that --resume knows it."""


@dataclass(frozen=True)
class Plan:
    """How to draw. `tile`, `overlap`: pixels. `batch_size`: tiles, 0 = automatic.

    dates: at most so many of each modality, evenly spaced. rows: of tiles. None = all.
    """

    tile: int = 128
    overlap: int = 32
    batch_size: int = 0
    workers: int = 2
    dates: int | None = None
    rows: int | None = None
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Work:
    """What one run did: wall-clock seconds, tiles read, pixels of the map drawn."""

    seconds: float = 0.0
    tiles: int = 0
    pixels: int = 0


def draw(predictor: Predictor, area: Area, out: Path, plan: Plan) -> MapResult:
    """Draw one area into `out`, its confidence and its picture; a finished map is left as it is under `resume`."""
    strips = plan_strips(area.scenes, plan.tile, plan.overlap)
    whole = not area.limited and (plan.rows is None or plan.rows >= len(strips))
    strips = strips[: plan.rows]
    made_of = _made_of(predictor, area, plan)
    tags = _tags(predictor, area, made_of, whole)
    colours = class_colors(predictor.classes)
    if plan.resume and out.exists():
        _check_finished(out, tags)
        work = Work()
    else:
        partial = PartialMap(out, (area.height, area.width), made_of, resume=plan.resume, overwrite=plan.overwrite)
        work = _fill(partial, predictor, area, strips, plan)
        write_confidence(partial, area, confidence_path(out), tags)
        write_class_map(partial, area, out, predictor.classes, colours, tags)
        partial.remove()
    result = _result(predictor, area, out, whole, work)
    views = views_of(area, out, strips[-1].bottom)
    legend = _legend(result.classes, predictor.classes, colours, area, views)
    draw_map(result.picture, views, legend, _title(predictor, area, out, views), result.synthetic)
    return result


def _fill(partial: PartialMap, predictor: Predictor, area: Area, strips: Sequence[Strip], plan: Plan) -> Work:
    """Predict every tile that reaches below the finished rows."""
    todo = [strip for strip in strips if strip.bottom > partial.rows_done]
    size = plan.batch_size or tiles_a_batch(area, plan)
    jobs = [(strip.top, batch) for strip in todo for batch in batches(strip.tiles, size)]
    blender = Blender(len(predictor.classes), max(strip.bottom - strip.top for strip in strips), area.width)
    total, pixels, started = sum(len(batch) for _, batch in jobs), 0, time.monotonic()

    def make(job: tuple[int, Sequence[Tile]]) -> tuple[int, Prepared]:
        return job[0], prepare(job[1], predictor, plan.dates)

    with Progress(f"predict {area.height:,} x {area.width:,} px", total, quiet=plan.quiet) as bar:
        for top, prepared in read_ahead(make, jobs, plan.workers):
            for finished in blender.advance(top):
                pixels += partial.write(*finished)
            if prepared.batch is not None:
                _blend(blender, prepared.tiles, *probabilities(predictor, prepared), plan.overlap)
            bar.advance(prepared.read, tiles_s=(bar.done + prepared.read) / max(time.monotonic() - started, 1e-9))
        for finished in blender.advance(area.height):
            pixels += partial.write(*finished)
    return Work(time.monotonic() - started, total, pixels)


def _blend(blender: Blender, tiles: Sequence[Tile], shares: np.ndarray, seen: np.ndarray, overlap: int) -> None:
    """tiles: B; shares: (B, K, h, w); seen: (B, h, w) bool."""
    height, width = seen.shape[1:]
    weights = blend_weights(height, width, overlap)
    for tile, one, shown in zip(tiles, shares, seen, strict=True):
        blender.add(tile.top, tile.left, one, weights * shown)


def tiles_a_batch(area: Area, plan: Plan) -> int:
    """Tiles a batch, so that memory does not grow with the number of dates."""
    counts = [[len(days) for days in one.scene.days.values()] for one in area.scenes]
    dates = max(sum(min(count, plan.dates or count) for count in row) for row in counts)
    return max(1, min(MOST_TILES, PIXEL_DATES // (max(dates, 1) * plan.tile**2)))


def _made_of(predictor: Predictor, area: Area, plan: Plan) -> dict[str, Any]:
    """What a map depends on: it is continued only where all of this is the same."""
    return {
        "eokit": __version__,
        "bundle": predictor.identity,
        "device": predictor.device.type,
        "grid": [area.height, area.width, *area.transform],
        **{name: getattr(plan, name) for name in ("tile", "overlap", "batch_size", "dates", "rows")},
        "source": area.identity,
    }


def _tags(predictor: Predictor, area: Area, made_of: dict[str, Any], whole: bool) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    tags = {"TIFFTAG_SOFTWARE": f"eokit {__version__}", MADE_OF_TAG: digest, "BUNDLE": predictor.identity}
    if not whole:
        tags["PARTIAL"] = "yes: drawn with --limit"
    if predictor.synthetic or area.synthetic:
        tags[SYNTHETIC_TAG] = "yes"
    return tags


def _check_finished(out: Path, tags: dict[str, str]) -> None:
    """Both files of a map that is there must be those of this run."""
    for path in (out, confidence_path(out)):
        if not path.exists():
            raise UsageError(f"{path}: is missing beside {out.name}; add --overwrite to draw both again")
        if read_tags(path).get(MADE_OF_TAG) != tags[MADE_OF_TAG]:
            raise UsageError(
                f"{path}: is there already and was made by another model, of other data or with other settings, so"
                " there is nothing to continue; add --overwrite to replace it"
            )


def _result(predictor: Predictor, area: Area, out: Path, whole: bool, work: Work) -> MapResult:
    counted = tally(area, out, confidence_path(out))
    seen = counted.pixels[:UNSEEN].sum()
    return MapResult(
        path=out,
        confidence=confidence_path(out),
        picture=out.with_suffix(".png"),
        crs=crs_name(area),
        size=(area.height, area.width),
        classes=class_areas(counted, predictor.classes),
        unseen_share=round(float(counted.pixels[UNSEEN] / counted.pixels.sum()), 6),
        mean_confidence=round(float(counted.confidence[:UNSEEN].sum() / seen), 2) if seen else None,
        seconds=round(work.seconds, 3),
        tiles=work.tiles,
        pixels_per_second=round(work.pixels / work.seconds, 1) if work.pixels else None,
        partial=not whole,
        synthetic=predictor.synthetic or area.synthetic,
        notes=area.notes,
    )


def crs_name(area: Area) -> str:
    """EPSG:... where there is one, else WKT."""
    from rasterio.crs import CRS

    return CRS.from_user_input(area.crs).to_string()


def _title(predictor: Predictor, area: Area, out: Path, views: Sequence[View]) -> str:
    where = ", ".join(filter(None, (area.name, crs_name(area), shown_of(area, views))))
    return f"{out.name}: {predictor.label} classes by {predictor.name}\n{where}"


def _legend(
    areas: Sequence[ClassArea],
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    area: Area,
    views: Sequence[View],
) -> Legend:
    """The classes of the map with their shares of it, then those that only the labels in the picture have."""
    numbers = {name: number for number, name in enumerate(classes)}
    entries = [LegendEntry(numbers[one.name], one.name, colours[numbers[one.name]], one.share) for one in areas]
    mapped = {entry.number for entry in entries}
    labelled = {int(number) for view in views if view.truth is not None for number in np.unique(view.truth)}
    entries += [
        LegendEntry(number, classes[number], colours[number], None)
        for number in sorted(labelled - mapped)
        if number < len(classes)
    ]
    patches = f"\n(all {len(area.scenes)} patches)" if len(views) < len(area.scenes) else ""
    return Legend(f"share of the whole map{patches}", entries)
