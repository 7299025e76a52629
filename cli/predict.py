"""`eokit predict`: draw a map from a store or a folder of dated GeoTIFFs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from eokit_cli.options import PATH, common, dry_run_option, emit, say, say_settings, settings_options, split_names


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.argument("source", type=PATH, required=False, metavar="[STORE|GEOTIFF_DIR]")
@click.argument("out", type=PATH, required=False, metavar="[OUT.tif]")
@click.option(
    "--bands", metavar="B02,B03,...", help="Bands of the GeoTIFFs in their order, where the files do not say."
)
@click.option("--scale", type=float, help="Multiply GeoTIFF values: 10000 for reflectance 0..1.  [default: 1]")
@click.option(
    "--offset", type=float, help="Add after --scale: -1000 for Sentinel-2 L2A since baseline 04.00.  [default: 0]"
)
@click.option("--nodata", type=float, help="Value of unseen pixels, where the GeoTIFFs do not say.")
@click.option("--folds", metavar="4,5", help="Only these folds of a store.")
@click.option(
    "--dates", type=click.IntRange(min=1), help="At most so many dates, evenly spaced.  [default: as learned]"
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Only the first N rows of tiles of a scene, or the first N samples of a store.",
)
@click.option("--tile", type=click.IntRange(min=1), help="Pixels along a tile.  [default: as learned]")
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    help="Pixels that neighbouring tiles share.  [default: tile / 4]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Tiles at once.  [default: by the number of dates]")
@click.option("--workers", type=click.IntRange(min=0), help="Threads that read ahead.  [default: 2]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...  [default: auto]")
@click.option("--resume", is_flag=True, default=None, help="Continue an interrupted map.")
@click.option("--overwrite", is_flag=True, default=None, help="Replace a map that is there.")
@dry_run_option("grid, tiles, dates, memory and time, from headers and a batch of random numbers")
@settings_options
@common
def command(
    config_file: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Draw a map of BUNDLE's classes: OUT.tif (names in OUT.tif.aux.xml), OUT_confidence.tif and OUT.png.

    BUNDLE is the newest in ./runs, the store the only ./data/*.zarr and OUT.tif named like the source, unless given.

    The source is a store, or a folder of GeoTIFFs on one grid, one file a date (or one a band). A date comes from a
    file's name (20200113, 2020-01-13, Sentinel-2 product names), else from its tags. Subfolders s2/, s1-asc/ ... hold
    several sensors. Pixels that no date shows are nodata (255), and so are patches of the model that are less than half
    seen on every date; for optical sensors all bands 0 counts as not seen.
    """
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.mapping.predict import PredictSettings, predict, try_out

    given["folds"] = parse_folds(given["folds"]) if given["folds"] else None
    given["bands"] = split_names(given["bands"])
    settings = load_settings(PredictSettings, config_file, overrides, given | {"quiet": quiet or None})
    say_settings(settings)
    results: list[Any] = try_out(settings) if dry_run else predict(settings)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        say(f"note: {note}", quiet)
    told = {"dry_run": True} if dry_run else {}
    text = _dry_text if dry_run else _text
    emit(told | {"maps": [one.to_dict() for one in results]}, as_json, quiet, lambda: "\n\n".join(map(text, results)))


def _text(result: Any) -> str:
    lines = [f"{'class':<32}{'hectares':>12}{'share':>8}{'confidence':>12}"]
    lines += [
        f"{one.name:<32}{one.hectares:>12,.1f}{one.share:>8.1%}{one.confidence:>11.0f}%" for one in result.classes
    ]
    if result.mean_confidence is None:
        lines = ["nothing was seen on any date: the map is all nodata"]
    else:
        lines.append(f"mean confidence {result.mean_confidence:.0f} %, not seen {result.unseen_share:.1%} of the map")
    rows, columns = result.size
    speed = f", {result.pixels_per_second:,.0f} px/s" if result.pixels_per_second else ""
    lines.append(f"{rows:,} x {columns:,} px in {result.crs}, {result.seconds:.1f} s{speed}")
    if result.partial:
        lines.append("partial: drawn with --limit, the rest is left out")
    if result.synthetic:
        lines.append("SYNTHETIC data or model")
    paths = (("map", result.path), ("confidence", result.confidence), ("picture", result.picture))
    return "\n".join(lines + [f"{name:<12}{path}" for name, path in paths])


def _dry_text(cost: Any) -> str:
    height, width = cost.size
    dates = ", ".join(
        f"{name} {fewest} to {most}" if most > fewest else f"{name} {most}"
        for name, (fewest, most) in cost.dates.items()
    )
    pixel = " x ".join(f"{side:.3g}" for side in cost.pixel)
    lines = [
        f"map         {cost.path}: {height:,} x {width:,} px of {pixel} m in {cost.crs}",
        f"dates       {dates}",
        f"tiles       {cost.tiles:,} of {cost.tile} px, {cost.overlap} px shared, in {cost.rows:,} rows,"
        f" {cost.batch_size} at once",
        f"memory      about {decimal(cost.memory_bytes)} on {cost.device}",
        f"time        about {cost.seconds:.3g} s for the model, without reading",
    ]
    if cost.partial:
        lines.append("partial: --limit leaves the rest out")
    if cost.synthetic:
        lines.append("SYNTHETIC data or model")
    return "\n".join([*lines, "nothing was written"])
