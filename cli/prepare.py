"""`eokit prepare`: one published data set, or a synthetic season, into one Zarr store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from eokit.cores import cores
from eokit.data.formats import FORMATS, find_tree, get_format
from eokit.errors import UsageError
from eokit.files import writing
from eokit_cli.options import (
    PATH,
    NameOf,
    common,
    dry_run_option,
    emit,
    say,
    say_settings,
    sigterm_as_ctrl_c,
    split_names,
)

if TYPE_CHECKING:
    from eokit.data.formats.base import Format, FormatSource
    from eokit.data.writer import WriteResult

SYNTHETIC = "synthetic"
SYNTHETIC_PATCHES = 16


@click.command()
@click.argument("name", metavar="NAME", type=NameOf([*FORMATS, SYNTHETIC]))
@click.argument("source", required=False, type=PATH)
@click.argument("dest", required=False, type=PATH)
@click.option("--synthetic", is_flag=True, help="Make a synthetic season in the layout of NAME and prepare that.")
@click.option("--size", type=click.IntRange(min=1), show_default="128",
              help="Patch size (px) of a synthetic PASTIS season.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the synthetic season.")
@click.option("--modalities", metavar="A,B", help="Only these, e.g. s2,s1-asc; default: all that are there.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many patches, spread evenly over the folds.")
@click.option("--layout", type=click.Choice(["default", "pixel", "tile"]), default="default", show_default=True,
              help="Chunks for patch models, for pixel series or for maps.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), help="Processes that write; default: one a core.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@click.option("--overwrite", is_flag=True, help="Replace the store that is there, once the new one is whole.")
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="Stop at a broken patch, or leave it out and say so.")  # fmt: skip
@dry_run_option("what would be written, every file checked")
@common
def command(
    name: str,
    source: Path | None,
    dest: Path | None,
    synthetic: bool,
    size: int | None,
    seed: int,
    modalities: str | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **write: Any,
) -> None:
    """Turn the data set NAME at SOURCE into one Zarr store at DEST (default ./data/NAME.zarr).

    Without SOURCE, $EOKIT_DATA and ./data are searched. `eokit datasets info NAME` says where to get one.

    Made-up data need no SOURCE: `eokit prepare treesatai --synthetic trees.zarr` draws a small copy in the layout of
    TreeSatAI-TS and makes the store trees.zarr of it; `eokit prepare synthetic [DEST]` is short for PASTIS.
    """
    from eokit.data.writer import WriteOptions, write_store

    made = synthetic or name == SYNTHETIC
    if made:
        source, dest = None, _only_dest(source, dest)
    shape = "pastis" if name == SYNTHETIC else name
    published = get_format(shape)
    dest = dest or Path("data") / f"{SYNTHETIC if made else name}.zarr"
    if dest.exists() and not (write["overwrite"] or dry_run):
        whole = " and is whole: there is nothing to resume" if write["resume"] else ""
        raise UsageError(f"{dest} exists{whole}; add --overwrite to replace it, or choose another place")
    workers = write["workers"] = write["workers"] or cores()
    chosen = split_names(modalities)
    say_settings({"source": source, "dest": dest, "modalities": chosen, "limit": limit} | write)
    season = {"patches": limit or SYNTHETIC_PATCHES, "size": size, "seed": seed, "workers": workers}
    place = Path(tempfile.gettempdir()) if dry_run else dest.parent
    with _synthetic_tree(place, shape, season, quiet) if made else _given_tree(source, published, quiet) as tree:
        opened = published.open_source(tree, modalities=chosen, limit=limit, on_error=write["on_error"])
        for note in opened.notes:
            say(f"note: {note}", quiet)
        plan = _plan(opened)
        if dry_run:
            emit({"store": str(dest), "dry_run": True} | plan, as_json, quiet, lambda: _plan_text(plan, dest))
            return
        result = write_store(opened, dest, WriteOptions(quiet=quiet, **write))
    for id, reason in result.skipped.items():
        say(f"skipped {id}: {reason}", quiet)
    emit(plan | _outcome(result), as_json, quiet, lambda: _result_text(plan, result))


def _only_dest(source: Path | None, dest: Path | None) -> Path | None:
    if dest is not None:
        raise UsageError(f"a synthetic season reads no source: give only the store's path, not {source} and {dest}")
    return source


@contextmanager
def _given_tree(source: Path | None, published: Format, quiet: bool) -> Iterator[Path]:
    """The copy that was named, or the one found where data usually are."""
    if source is None:
        source = find_tree(published)
        say(f"found {source}", quiet)
    yield source


@contextmanager
def _synthetic_tree(place: Path, name: str, season: dict[str, Any], quiet: bool) -> Iterator[Path]:
    """A synthetic season in the layout of the data set `name`, in `place` while it is being prepared."""
    from eokit.data.synthetic import write_copy

    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=place, prefix=".eokit-season-")
    with sigterm_as_ctrl_c(), folder as path:
        say(f"making a synthetic season of {season['patches']} patches (no real place, no real crop)", quiet)
        yield write_copy(name, Path(path) / name, quiet=quiet, **season)


def _plan(source: FormatSource) -> dict[str, Any]:
    """What a source holds, counted from its dates and file sizes alone."""
    from eokit.data.describe import iso

    spec, entries = source.spec, source.entries
    modalities, stored = {}, 0
    for one in spec.modalities:
        dates = [len(entry.days[one.name]) for entry in entries]
        days = [int(day) for entry in entries for day in (entry.days[one.name][[0, -1]])]
        bytes_a_date = one.shape[0] * one.shape[1] * one.shape[2] * (1 if one.dtype == "uint8" else 2)
        stored += sum(dates) * bytes_a_date
        modalities[one.name] = {
            "bands": list(one.bands),
            "size": list(one.shape[1:]),
            "dates": [min(dates), max(dates)],
            "first": iso(min(days)),
            "last": iso(max(days)),
        }
    return {
        "dataset": spec.dataset,
        "title": spec.title,
        "synthetic": spec.synthetic,
        "samples": len(entries),
        "folds": sorted({entry.fold for entry in entries}),
        "modalities": modalities,
        "labels": [label.name for label in spec.labels],
        "notes": list(source.notes),
        "input_bytes": sum(source.input_bytes(entry) for entry in entries),
        "uncompressed_bytes": stored,
    }


def _outcome(result: WriteResult) -> dict[str, Any]:
    return {
        "store": str(result.path),
        "samples": result.samples,
        "stored_bytes": result.stored_bytes,
        "seconds": round(result.seconds, 3),
        "input_mb_per_s": round(result.input_bytes / 1e6 / max(result.seconds, 1e-9), 1),
        "skipped": result.skipped,
    }


def _plan_text(plan: dict[str, Any], dest: Path) -> str:
    head = (
        f"{plan['title']}: {_patches(plan['samples'])}, {decimal(plan['input_bytes'])} of input, every header checked"
    )
    tail = f"would write {dest}: {decimal(plan['uncompressed_bytes'])} before compression"
    return "\n".join((head, _content_text(plan), tail))


def _result_text(plan: dict[str, Any], result: WriteResult) -> str:
    outcome = _outcome(result)
    speed = f"{result.seconds:.1f} s, {outcome['input_mb_per_s']:.0f} MB/s of input"
    head = f"{plan['title']}: {_patches(result.samples)} in {result.path}, {decimal(result.stored_bytes)} ({speed})"
    lines = [head, _content_text(plan)]
    if result.skipped:
        lines.append(f"  {len(result.skipped)} patches were skipped")
    family = "cropsts" if plan["dataset"].startswith("pastis") else "anysat"  # which takes any sensor
    onward = [f"eokit inspect {result.path}"]
    if result.samples > 1:  # one alone cannot be told from others
        onward.append(f"eokit pretrain --model {family} --data {result.path}")
    lines.append(f"next: {'; '.join(onward)}")
    return "\n".join(lines)


def _patches(count: int) -> str:
    return f"{count} patch" if count == 1 else f"{count} patches"


def _content_text(plan: dict[str, Any]) -> str:
    lines = []
    for name, one in plan["modalities"].items():
        (height, width), (fewest, most) = one["size"], one["dates"]
        dates = f"{fewest} to {most} dates" if most > fewest else f"{most} date{'s' if most > 1 else ''}"
        season = f"{one['first']} to {one['last']}" if one["last"] > one["first"] else one["first"]
        lines.append(f"  {name:<9}{len(one['bands']):>2} bands  {height} x {width} px  {dates}, {season}")
    folds = ", ".join(map(str, plan["folds"]))
    lines.append(f"  labels   {', '.join(plan['labels']) or 'none'}; folds {folds}")
    return "\n".join(lines)
