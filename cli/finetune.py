"""`eokit finetune`: fit an encoder and a head to the labels of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eokit_cli.costs import cost_facts, cost_text
from eokit_cli.next_steps import after_finetuning
from eokit_cli.options import (
    PATH,
    common,
    dry_run_option,
    emit,
    patch_metres_option,
    resume_option,
    say,
    say_settings,
    settings_options,
)

if TYPE_CHECKING:
    from eokit.training.finetune import FinetuneResult, FinetuneSettings

METRICS = {"miou": "mIoU", "macro_f1": "macro F1", "macro_map": "macro mAP"}
LOOP = ("steps", "batch_size", "lr", "workers", "device", "seed")
"""Options that are settings of the loop."""


@click.command()
@click.argument("bundle", type=PATH, metavar="[DIR]", required=False)
@click.option("--data", type=PATH, metavar="STORE", help="The store.  [default: the only ./data/*.zarr]")
@click.option("--out", type=PATH, metavar="BUNDLE", help="Bundle to write.  [default: ./runs/finetune-TIME]")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps, at most.  [default: 500]")
@click.option(
    "--mode",
    type=click.Choice(["full", "frozen", "head-only"]),
    help="full: all learns. frozen: the encoder does not. head-only: from features computed once.  [default: full]",
)
@click.option("--label", metavar="NAME", help="Label layer.  [default: semantic, else the only one there is]")
@click.option(
    "--head",
    type=click.Choice(["linear", "conv", "dense"]),
    help="Of maps: linear per token, light decoder, linear per sub-patch.  [default: conv]",
)
@patch_metres_option
@click.option("--random-init", is_flag=True, default=None, help="Start from random weights, to compare.")
@click.option("--train-folds", metavar="1-3", help="Train on these.  [default: all but the last two]")
@click.option("--val-folds", metavar="4", help="Stop early on these.  [default: the last but one]")
@click.option(
    "--class-weights",
    type=click.Choice(["sqrt", "none"]),
    help="~ 1 / sqrt(pixels), or none.  [default: sqrt; none for several classes at once]",
)
@click.option("--dates", type=click.IntRange(min=1), help="At most so many dates a sample.  [default: 32]")
@click.option(
    "--crop", type=click.IntRange(min=1), help="Train on windows of so many pixels.  [default: whole patches]"
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples a step, over all processes.  [default: 16]")
@click.option("--lr", type=float, help="Highest learning rate of the head.  [default: 1e-3]")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many training patches.")
@click.option("--workers", type=click.IntRange(min=0), help="Loader processes.  [default: the idle cores, at most 8]")
@click.option("--device", help="auto, cpu, cuda, cuda:1.  [default: auto]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.  [default: 0]")
@resume_option
@dry_run_option("parameters, memory, time and the loss of one step on random numbers")
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
    """Fine-tune the encoder of DIR (a run or a bundle; default: the newest in ./runs) on the labels of a store.

    Writes BUNDLE, whole, with the best score on the validation folds, and BUNDLE.run with events and checkpoints. The
    test folds are not touched. With --resume the settings are those of the run.

    The label layer tells the task: maps are scored by mIoU, one class a sample by macro F1, several classes a sample by
    macro mAP.
    """
    settings = _settings(given | {"quiet": quiet or None}, config_file, overrides)
    from eokit.training.distributed import is_first
    from eokit.training.finetune import finetune, try_out

    if is_first():
        say_settings(settings)
    if dry_run:
        plan, cost = try_out(settings)
        facts = cost_facts(plan.settings, plan.notes, cost)
        emit(facts, as_json, quiet, lambda: cost_text(facts))
        return
    result = finetune(settings)
    if is_first():
        for note in result.notes:
            say(f"note: {note}", quiet)
        emit(_plain(result), as_json, quiet, lambda: _text(result, settings))


def _settings(given: dict[str, Any], config: Path | None, overrides: tuple[str, ...]) -> FinetuneSettings:
    """Settings from --config or, when a run goes on, from its own settings.yaml; then options, then -o."""
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.training.finetune import FinetuneSettings, run_folder
    from eokit.training.run import SETTINGS_FILE

    if config is None and given["out"] and given["resume"] not in (None, "none"):
        kept = run_folder(given["out"]) / SETTINGS_FILE
        config = kept if kept.is_file() else None
    loop = [f"loop.{key}={given[key]}" for key in LOOP if given[key] is not None]
    rest = {key: value for key, value in given.items() if key not in LOOP}
    for name in ("train_folds", "val_folds"):
        rest[name] = parse_folds(rest[name]) if rest[name] else None
    return load_settings(FinetuneSettings, config, (*loop, *overrides), rest)


def _plain(result: FinetuneResult) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "metric": result.metric,
        "folds": result.split._asdict(),
        "synthetic": result.synthetic,
        "notes": result.notes,
        **vars(result.fit),
    }


def _text(result: FinetuneResult, settings: FinetuneSettings) -> str:
    fitted, metric = result.fit, METRICS[result.metric]
    lines = [f"{fitted.step} steps in {fitted.seconds:.0f} s, {fitted.data_wait:.1%} of it waiting for data"]
    if fitted.stopped_early:
        lines.append(f"stopped early: no better validation {metric} in {settings.patience} validations")
    if fitted.best_metric is not None:
        best = f"{metric} {100 * fitted.best_metric:.1f} %"
        lines.append(
            f"best validation {best} at step {fitted.best_step}, kept"
            if fitted.best_step
            else f"no step improved on the start, a linear probe of the encoder: validation {best}, kept"
        )
    lines.append(f"bundle  {result.bundle}" + ("  (trained on SYNTHETIC data)" if result.synthetic else ""))
    lines.append(after_finetuning(result, settings.data))
    return "\n".join(lines)
