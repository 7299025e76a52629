"""`eokit inspect`: what is in a store, in words, as JSON, or as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eokit.errors import DataError, UsageError
from eokit_cli.options import PATH, common, emit, say

if TYPE_CHECKING:
    from eokit.data.store import Store


LINES = 20
"""Most damaged files that are named; --json names all."""


@click.command()
@click.argument("store", type=PATH)
@click.option("--plot", type=PATH, is_flag=False, flag_value=Path(), metavar="[PNG]",
              help="Draw a quick look; without a name after STORE: ./<store>-quicklook.png.")  # fmt: skip
@click.option("--sample", metavar="ID", help="The patch to draw, by id or number; default: the one with most classes.")
@common
def command(store: Path, plot: Path | None, sample: str | None, as_json: bool, quiet: bool) -> None:
    """Show what is in STORE: sensors, dates, gaps, classes, sizes; with --plot also a picture.

    Exit code 3 if a file of it is missing or cut off, with a line for each.
    """
    from eokit.data.describe import describe
    from eokit.data.store import Store

    opened = Store.open(store)
    number = None if sample is None else _find(opened, sample)
    facts = describe(opened)
    if plot is not None and not facts["damage"]:
        from eokit.viz.quicklook import draw_quicklook

        target = plot if plot != Path() else Path(f"{store.resolve().stem}-quicklook.png")
        facts["picture"] = str(draw_quicklook(opened, target, number))
        say(f"quick look: {target}", quiet)
    emit(facts, as_json, quiet, lambda: as_text(facts))
    if damage := facts["damage"]:
        more = (f"and {len(damage) - LINES} more files",) if len(damage) > LINES else ()
        raise DataError(*damage[:LINES], *more)


def _find(store: Store, sample: str) -> int:
    """The number of the sample with this id, or with this number."""
    if sample in store.ids:
        return store.ids.index(sample)
    if sample.isdecimal() and int(sample) < len(store):
        return int(sample)
    raise UsageError(
        f"--sample {sample}: no patch has this id or number; ids run from {store.ids[0]} to {store.ids[-1]},"
        f" numbers from 0 to {len(store) - 1}"
    )


def as_text(facts: dict[str, Any]) -> str:
    """The facts of `describe` for people."""
    made_up = "SYNTHETIC, " if facts["synthetic"] else ""
    folds = "  ".join(f"{fold}: {count}" for fold, count in facts["folds"].items())
    size = f"{facts['bytes_on_disk'] / 1e6:,.1f} MB, {_against_raw(facts['compression_ratio'])}"
    lines = [
        f"{facts['title']} ({made_up}{facts['dataset']})",
        f"  {facts['store']}: {facts['samples']} samples, {size}",
        f"  samples by fold   {folds}",
        f"  files             {_files(facts)}",
    ]
    for name, one in facts["modalities"].items():
        lines += _modality_lines(name, one)
    for name, one in facts["labels"].items():
        lines += _label_lines(name, one)
    return "\n".join(lines)


def _against_raw(ratio: float) -> str:
    """How the size on disk compares with the arrays in memory; a store of few pixels is mostly what describes them."""
    factor = ratio if ratio >= 1 else 1 / max(ratio, 1e-9)
    if factor < 1.005:
        return "as large as the raw arrays"
    return f"{factor:,.2f} times {'smaller' if ratio >= 1 else 'larger'} than the raw arrays"


def _files(facts: dict[str, Any]) -> str:
    """Whether the files of pixels and labels are as they were written, by their sizes."""
    if facts["shards"] is None:
        return "not checked: an older eokit made this store, which kept no list of them"
    damaged = len(facts["damage"])
    if damaged:
        return f"{damaged} of {facts['shards']} DAMAGED"
    return f"all {facts['shards']} are there and of the right size"


def _modality_lines(name: str, one: dict[str, Any]) -> list[str]:
    height, width = one["shape"][1:]
    fewest, most = one["dates"]
    dates = f"{fewest} to {most} dates" if most > fewest else f"{most} date{'s' if most != 1 else ''}"
    season = one["first_day"] if one["first_day"] == one["last_day"] else f"{one['first_day']} to {one['last_day']}"
    gaps = ""
    if one["median_gap_days"] is not None:
        gaps = f", every {one['median_gap_days']:g} days (longest gap {one['longest_gap_days']})"
    return [
        f"{name}: {one['sensor']}, {height} x {width} px of {one['gsd_m']:g} m, {one['dtype']}",
        f"  bands   {' '.join(one['bands'])}",
        f"  dates   {dates}, {season}{gaps}",
        f"  nodata  {one['nodata_share']:.2%}",
    ]


def _label_lines(name: str, one: dict[str, Any]) -> list[str]:
    size = " x ".join(map(str, one["shape"]))
    extent = {2: f"{size} px", 1: f"any of {size} classes a sample", 0: "one class a sample"}[len(one["shape"])]
    head = f"{name}: label, {extent}, {one['dtype']}"
    if "classes" not in one:
        return [head]
    counted = one["counted"]
    present = [row for row in one["classes"] if row[counted]]
    wide = max((len(row["name"]) for row in present), default=0)
    rows = [
        f"  {row['id']:>3}  {row['name']:<{wide}}  {row[counted]:>12,}  {row['share']:>7.2%}"
        + ("  ignored" if row["id"] == one["ignore"] else "")
        for row in present
    ]
    missing = [row["name"] for row in one["classes"] if not row[counted]]
    return [head, *rows, *([f"       no {counted[:-1]} of {', '.join(missing)}"] if missing else [])]
