"""`eokit evaluate`: score a bundle on the labelled test folds of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eokit.files import write_text
from eokit_cli.options import (
    PATH,
    common,
    emit,
    patch_metres_option,
    say,
    say_settings,
    settings_options,
    split_names,
    tile_of_option,
)

if TYPE_CHECKING:
    from eokit.evaluation.report import BaseReport

PROTOCOLS = ["knn", "linear", "finetuned", "random-forest", "raw-linear"]


@click.command()
@click.argument("bundle", type=PATH, required=False)
@click.option("--data", type=PATH, metavar="STORE", help="The store.  [default: the only ./data/*.zarr]")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="Probe the features, use the head, or a baseline.  [default: finetuned if there is a head, else linear]",
)
@click.option("--label", metavar="NAME", help="Label layer.  [default: the head's, else semantic, else the only one]")
@click.option(
    "--features",
    type=click.Choice(["patch", "dense"]),
    help="linear, of maps: a vector a patch, or a sub-patch where the encoder has them.  [default: patch]",
)
@click.option("--folds", metavar="4,5", help="Score on these.  [default: the last]")
@click.option("--train-folds", metavar="1-3", help="A probe learns from these.  [default: the folds that are left]")
@click.option(
    "--val-folds", metavar="4", help="A linear probe picks its penalty on these.  [default: the last but one]"
)
@patch_metres_option
@tile_of_option
@click.option("--random-init", is_flag=True, default=None, help="Probe a random encoder of the same configuration.")
@click.option("--modalities", metavar="A,B", help="Only these, e.g. s2,s1-asc.  [default: what model and store share]")
@click.option(
    "--dates", type=click.IntRange(min=1), help="At most so many dates, evenly spaced.  [default: as learned]"
)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), help="Tokens, pixels or samples to learn from.  [default: 50000]"
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many patches to learn from and to score on.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Patches at once.  [default: 8]")
@click.option("--workers", type=click.IntRange(min=0), help="Loader processes.  [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1.  [default: auto]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of draws and intervals.  [default: 0]")
@click.option("--out", type=PATH, metavar="FILE.json", help="Write the report there as well.")
@click.option("--plot", type=PATH, is_flag=False, flag_value=Path(), metavar="[PNG]",
              help="Draw the confusion matrix, or the classes' F1 where a sample has several; without a name at the"
                   " end: ./confusion-<protocol>.png or ./classes-<protocol>.png.")  # fmt: skip
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

    Of label maps knn is scored per token, the others per pixel: scores come from the summed confusion matrix with void
    left out and background kept. Labels of whole samples are scored per sample: by the same where a sample has one
    class, by average precision and F1 where it has several. 95 % intervals are bootstrapped over patches or samples.
    random-forest and raw-linear are baselines on the raw series and need no BUNDLE; with one, they take the same
    modalities.
    """
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.evaluation.protocols import evaluate
    from eokit.evaluation.study import EvaluateSettings

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
        say(f"picture  {_draw(report, plot)}", quiet)
    emit(report.to_dict(), as_json, quiet, report.table)


def _draw(report: BaseReport, plot: Path) -> Path:
    """The picture that fits the labels; an empty path: named after the protocol, in this folder."""
    from eokit.evaluation.report import Report
    from eokit.viz.classes import draw_classes
    from eokit.viz.confusion import draw_confusion

    (metric, name), *_ = report.shown.items()
    score = f"{name} {100 * report.scores[metric]:.1f} %"
    title = f"{report.protocol} on {report.data}, {score}"
    if isinstance(report, Report):
        path = plot if plot != Path() else Path(f"confusion-{report.protocol}.png")
        return draw_confusion(
            report.matrix, report.classes, report.ignore, path, title=title, synthetic=report.synthetic
        )
    path = plot if plot != Path() else Path(f"classes-{report.protocol}.png")
    return draw_classes(report.scores["per_class"], path, title=title, synthetic=report.synthetic)
