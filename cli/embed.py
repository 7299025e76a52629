"""`eokit embed`: features of every sample of a store, as Zarr, GeoParquet or GeoTIFFs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from eokit_cli.options import (
    PATH,
    common,
    dry_run_option,
    emit,
    patch_metres_option,
    say,
    say_settings,
    settings_options,
    split_names,
    tile_of_option,
)


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.argument("store", type=PATH, required=False)
@click.argument("out", type=PATH, required=False)
@click.option(
    "--level",
    type=click.Choice(["tile", "patch", "pixel"]),
    help="One vector a sample, a patch, or a sub-patch of --modality.  [default: tile for GeoParquet, else patch]",
)
@click.option("--modality", metavar="NAME", help="Whose sub-patches --level pixel tells.  [default: the first]")
@patch_metres_option
@tile_of_option
@click.option(
    "--format",
    type=click.Choice(["zarr", "geoparquet", "cog"]),
    help="[default: by OUT: .zarr, .parquet, else a folder of GeoTIFFs]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    help="How numbers are kept; int8 with one step a channel, from 64 samples.  [default: float32]",
)
@click.option("--folds", metavar="4,5", help="Only these folds.")
@click.option("--modalities", metavar="A,B", help="Only these, e.g. s2,s1-asc.  [default: what model and store share]")
@click.option("--dates", type=click.IntRange(min=1), help="At most so many dates, evenly spaced.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N samples.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples at once.  [default: 8]")
@click.option("--workers", type=click.IntRange(min=0), help="Loader processes.  [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1.  [default: auto]")
@click.option("--resume", is_flag=True, default=None, help="Continue an interrupted run.")
@click.option("--overwrite", is_flag=True, default=None, help="Replace features that are there.")
@dry_run_option("samples, shapes, bytes, memory and time, from a batch of the first samples")
@settings_options
@common
def command(
    config_file: Path | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Write the features that BUNDLE's encoder has of every sample of STORE to OUT.

    BUNDLE is the newest in ./runs, the store the only ./data/*.zarr and OUT named like it (.zarr), unless given.

    tile: one vector a sample, as Zarr (sample, channel) or GeoParquet with footprints. patch, pixel: maps, as Zarr
    (sample, channel, y, x) or a folder of Cloud-Optimized GeoTIFFs, one a sample, a band a channel. What the
    encoder did not see is NaN, in int8 -128.
    """
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.mapping.embedding.run import EmbedSettings, embed, try_out

    given["folds"] = parse_folds(given["folds"]) if given["folds"] else None
    given["modalities"] = split_names(given["modalities"])
    settings = load_settings(EmbedSettings, config_file, overrides, given | {"quiet": quiet or None})
    say_settings(settings)
    result: Any = try_out(settings) if dry_run else embed(settings)
    for note in result.notes:
        say(f"note: {note}", quiet)
    told = {"dry_run": True} if dry_run else {}
    emit(told | asdict(result), as_json, quiet, lambda: (_dry_text if dry_run else _text)(result))


def _head(one: Any) -> str:
    shape = " x ".join(map(str, one.shape))
    return f"features    {one.level}, {one.samples:,} samples of {shape} {one.dtype}, {one.format}"


def _text(result: Any) -> str:
    seconds = "was there already" if result.seconds is None else f"{result.seconds:.1f} s"
    lines = [_head(result), f"not seen    {result.unseen_share:.2%} of the vectors"]
    if result.error is not None:
        steps = f", steps from {result.calibrated_on} samples" if result.calibrated_on else ""
        lines.append(f"rounding    {result.error:.2%} of the values (rms), clipped {result.clipped_share:.4%}{steps}")
    lines.append(f"written     {result.path}, {result.stored_bytes / 1e6:,.1f} MB, {seconds}")
    return "\n".join([*lines, "SYNTHETIC data or model"] if result.synthetic else lines)


def _dry_text(cost: Any) -> str:
    lines = [
        _head(cost),
        f"written     {cost.path}, {cost.uncompressed_bytes / 1e6:,.1f} MB before compression",
        f"time        about {cost.seconds:,.0f} s on {cost.device}",
        f"memory      {cost.memory_bytes / 2**30:.2f} GiB of this process",
        "nothing was written",
    ]
    return "\n".join([*lines, "SYNTHETIC data or model"] if cost.synthetic else lines)
