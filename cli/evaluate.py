"""`eokit evaluate`: score a bundle on the labelled test folds of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from eokit.files import write_text
from eokit_cli.options import PATH, common, emit, say, say_settings, settings_options, split_names

PROTOCOLS = ["knn", "linear", "finetuned", "random-forest"]


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--data", type=PATH, metavar="STORE", help="The store.  [default: the only ./data/*.zarr]")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="Probe the features, use the head, or the baseline.  [default: finetuned if there is a head, else linear]",
)
@click.option("--folds", metavar="4,5", help="Score on these.  [default: the last]")
@click.option("--train-folds", metavar="1-3", help="A probe learns from these.  [default: the folds that are left]")
@click.option(
    "--val-folds", metavar="4", help="The linear probe picks its penalty on these.  [default: the last but one]"
)
@click.option("--random-init", is_flag=True, default=None, help="Probe a random encoder of the same configuration.")
@click.option("--modalities", metavar="A,B", help="Only these, e.g. s2,s1-asc.  [default: what model and store share]")
@click.option(
    "--dates", type=click.IntRange(min=1), help="At most so many dates, evenly spaced.  [default: as learned]"
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens or pixels to learn from.  [default: 50000]")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many patches to learn from and to score on.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Patches at once.  [default: 8]")
@click.option("--workers", type=click.IntRange(min=0), help="Loader processes.  [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1.  [default: auto]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of draws and intervals.  [default: 0]")
@click.option("--out", type=PATH, metavar="FILE.json", help="Write the report there as well.")
@click.option("--plot", type=PATH, is_flag=False, flag_value=Path(), metavar="[PNG]",
              help="Draw the confusion matrix; without a name at the end: ./confusion-<protocol>.png.")  # fmt: skip
@settings_options
@common
def command(
    config_file: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Score BUNDLE (default: the newest in ./runs) on the test folds of a store.

    knn is scored per token, the others per pixel. Scores come from the summed confusion matrix with void left out and
    background kept, with 95 % bootstrap intervals over patches. random-forest is a baseline on the raw series and
    needs no BUNDLE; with one, it takes the same modalities.
    """
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.evaluation.protocols import EvaluateSettings, evaluate

    for name in ("folds", "train_folds", "val_folds"):
        given[name] = parse_folds(given[name]) if given[name] else None
    given["modalities"] = split_names(given["modalities"])
    settings = load_settings(EvaluateSettings, config_file, overrides, given | {"quiet": quiet or None})
    say_settings(settings)
    report = evaluate(settings)
    if out is not None:
        write_text(out, json.dumps(report.to_dict(), indent=2) + "\n")
        say(f"report   {out}", quiet)
    if plot is not None:
        plot = plot if plot != Path() else Path(f"confusion-{report.protocol}.png")
        from eokit.viz.confusion import draw_confusion

        title = f"{report.protocol} on {report.data}, mIoU {100 * report.scores['miou']:.1f} %"
        draw_confusion(report.matrix, report.classes, report.ignore, plot, title=title, synthetic=report.synthetic)
        say(f"picture  {plot}", quiet)
    emit(report.to_dict(), as_json, quiet, report.table)
