"""`eokit pretrain`: train an encoder on a store, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eokit_cli.costs import cost_facts, cost_text
from eokit_cli.next_steps import after_pretraining
from eokit_cli.options import (
    PATH,
    common,
    dry_run_option,
    emit,
    is_verbose,
    resume_option,
    say,
    say_settings,
    settings_options,
    split_names,
)

if TYPE_CHECKING:
    from eokit.training.pretrain import PretrainResult, PretrainSettings

LOOP = ("steps", "batch_size", "lr", "workers", "device", "seed")
"""Options that are settings of the loop."""


@click.command()
@click.option("--model", metavar="FAMILY", help="cropsts or anysat.  [default: cropsts]")
@click.option("--preset", help="tiny (for a CPU); cropsts: parcel, paper; anysat: small, base.  [default: tiny]")
@click.option(
    "--data",
    type=PATH,
    multiple=True,
    metavar="STORE",
    help="The store; repeatable for anysat.  [default: the only ./data/*.zarr; anysat: all it can read]",
)
@click.option("--out", type=PATH, metavar="DIR", help="Folder of the run.  [default: ./runs/MODEL-TIME]")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps.  [default: by preset]")
@click.option("--epochs", type=float, help="Passes over the samples, instead of --steps.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples a step, over all processes.")
@click.option("--lr", type=float, help="Highest learning rate.  [default: 2.5e-4; anysat: 1e-4 for tiny, else 5e-5]")
@click.option("--folds", metavar="1,2-3", help="Train on these.  [default: all but the last two]")
@click.option(
    "--modalities",
    metavar="A,B",
    help="Only these, e.g. s2,s1-asc; of several stores what each has of them, at least one.  [default: cropsts: s2, or"
    " the store's first; anysat: all it knows]",
)
@click.option("--dates", type=click.IntRange(min=1), help="At most so many dates a sample.  [default: by preset]")
@click.option("--crop", type=click.IntRange(min=1), help="Train on windows of so many pixels.  [default: by preset]")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many samples.")
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
    """Pretrain an encoder without labels: it learns to predict what is hidden from it.

    cropsts predicts hidden parcels of one store; anysat hidden blocks of patches, of one or several stores, and learns
    to tell patches apart as well.

    Writes DIR/bundle (for finetune, evaluate and predict), DIR/events.jsonl, DIR/curves.png and checkpoints. With
    --resume the settings are those of the run in --out, so that nothing else need be typed again.
    On several GPUs or processes: torchrun --nproc-per-node 2 --no-python eokit pretrain --out DIR ...
    """
    settings = _settings(given | {"quiet": quiet or None}, config_file, overrides)
    from eokit.training.distributed import is_first
    from eokit.training.pretrain import lay_out, pretrain, try_out

    if dry_run:
        plan, cost = try_out(settings)
        say_settings(plan.settings)
        facts = cost_facts(plan.settings, plan.notes, cost)
        emit(facts, as_json, quiet, lambda: cost_text(facts))
        return
    if is_first() and is_verbose():
        say_settings(lay_out(settings).settings)
    result = pretrain(settings)
    if is_first():
        picture = _draw(result, quiet)
        emit(_plain(result, picture), as_json, quiet, lambda: _text(result, picture))


def _settings(given: dict[str, Any], config: Path | None, overrides: tuple[str, ...]) -> PretrainSettings:
    """Settings from --config or, when a run goes on, from its own settings.yaml; then options, then -o."""
    from eokit.config import load_settings
    from eokit.data.folds import parse_folds
    from eokit.training.pretrain import PretrainSettings
    from eokit.training.run import SETTINGS_FILE

    if config is None and given["out"] and given["resume"] not in (None, "none"):
        kept = given["out"] / SETTINGS_FILE
        config = kept if kept.is_file() else None
    loop = [f"loop.{key}={given[key]}" for key in LOOP if given[key] is not None]
    rest = {key: value for key, value in given.items() if key not in LOOP}
    rest["folds"] = parse_folds(rest["folds"]) if rest["folds"] else None
    rest["modalities"] = split_names(rest["modalities"])
    rest["data"] = rest["data"] or None
    return load_settings(PretrainSettings, config, (*loop, *overrides), rest)


def _draw(result: PretrainResult, quiet: bool) -> Path | None:
    """The curves of the run, where matplotlib is installed."""
    from eokit.errors import SetupError
    from eokit.viz.curves import draw_curves

    run, settings = result.bundle.parent, result.settings
    title = f"{settings.model} {settings.preset}, pretraining"
    try:
        return draw_curves(run, run / "curves.png", title=title, synthetic=result.synthetic)
    except SetupError as error:
        say(f"no curves: {error}", quiet)
        return None


def _plain(result: PretrainResult, picture: Path | None) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "run": str(result.bundle.parent),
        "curves": str(picture) if picture else None,
        "masks": result.masks,
        "synthetic": result.synthetic,
        "settings": result.settings.model_dump(mode="json"),
        **vars(result.fit),
    }


def _text(result: PretrainResult, picture: Path | None) -> str:
    run, figures = result.bundle.parent, result.fit.figures
    data = (result.settings.data or ())[0]
    shown = "  ".join(
        f"{name} {figures[name]:.4g}" for name in ("loss", "feature_std", "effective_rank") if name in figures
    )
    return "\n".join(
        [
            f"{result.fit.step} steps in {result.fit.seconds:.0f} s, {result.fit.data_wait:.1%} of it waiting for data",
            shown,
            f"bundle  {result.bundle}" + ("  (trained on SYNTHETIC data)" if result.synthetic else ""),
            *([f"curves  {picture}"] if picture else []),
            after_pretraining(result.bundle, run, data),
        ]
    )
