"""Pretraining an encoder on a store or several, without labels; what `eokit pretrain` calls.

The bundle holds the teacher's encoder, the moving average of the trained one, which is what I-JEPA evaluates; after a
run so short that the teacher is still partly its random start, it holds the student's.
"""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from eokit import __version__
from eokit.errors import UsageError
from eokit.models.bundle import Bundle, save_bundle
from eokit.training.checkpoint import find_start, resume_from
from eokit.training.distributed import is_first, team_size
from eokit.training.dry_run import DryRun, dry_run
from eokit.training.engine import FitResult, fit
from eokit.training.plan import Plan, PretrainSettings, kept_encoder
from eokit.training.run import About

PLANS = {"cropsts": "eokit.training.plan_cropsts", "anysat": "eokit.training.plan_anysat"}
"""By model family: a module with `lay_out(settings) -> Plan`."""


@dataclass(frozen=True)
class PretrainResult:
    """bundle: what finetune, evaluate and predict take. masks: what hid the patches, e.g. "parcels"."""

    bundle: Path
    fit: FitResult
    settings: PretrainSettings
    masks: str
    synthetic: bool


def pretrain(settings: PretrainSettings) -> PretrainResult:
    """Train, and write `out/bundle`; also the run's settings, events and checkpoints (see eokit.training.engine)."""
    out, resume = run_folder(settings), resume_from(settings.resume)
    if is_first():
        find_start(out, resume)  # before the data are opened: the plainest mistake first
    plan = lay_out(settings)
    quiet = settings.quiet or not is_first()
    for note in plan.notes:
        if not quiet:
            print(note, file=sys.stderr)
    about = About(
        identity(plan.settings), again=f"eokit pretrain --out {shlex.quote(str(out))} --resume auto", quiet=quiet
    )
    result = fit(plan.recipe, plan.dataset, plan.settings.loop, out, resume=resume, about=about)
    bundle = out / "bundle"
    if is_first():
        told = provenance(plan, result)
        encoder = plan.recipe.teacher if told["encoder"] == "teacher" else plan.recipe.encoder
        save_bundle(bundle, Bundle(encoder, plan.preprocessing, provenance=told))
    return PretrainResult(bundle, result, plan.settings, plan.masks, plan.synthetic)


def try_out(settings: PretrainSettings) -> tuple[Plan, DryRun]:
    """What `settings` would do and cost, from one step on random numbers; writes nothing."""
    plan = lay_out(settings)
    return plan, dry_run(plan.recipe, plan.probe(), plan.settings.loop)


def lay_out(settings: PretrainSettings) -> Plan:
    """Open the stores, fill in what is left open, build recipe and data set: mistakes show before work."""
    if settings.model not in PLANS:
        raise UsageError(f"unknown model {settings.model!r}; models that pretrain: {', '.join(PLANS)}")
    return import_module(PLANS[settings.model]).lay_out(settings)


def run_folder(settings: PretrainSettings) -> Path:
    """The folder of the run; several processes, or a run to go on with, need it named."""
    if settings.out is not None:
        return settings.out
    if settings.resume != "none" or team_size() > 1:
        raise UsageError("name the folder of the run with --out DIR: it is needed to resume, and under torchrun")
    return Path("runs") / f"{settings.model}-{time.strftime('%Y%m%d-%H%M%S')}"


def identity(settings: PretrainSettings) -> dict[str, Any]:
    """What makes a run the run it is: all settings but where it is written and how it is started."""
    return settings.model_dump(mode="json", exclude={"out", "resume", "quiet"})


def provenance(plan: Plan, result: FitResult) -> dict[str, Any]:
    """How the bundle came to be."""
    settings = plan.settings
    return {
        "eokit": __version__,
        "recipe": "jepa",
        "encoder": kept_encoder(plan.recipe, result.step),
        "preset": settings.preset,
        "dataset": ", ".join(store.dataset for store in plan.stores),
        "synthetic": plan.synthetic,
        "folds": list(settings.folds or ()),
        "samples": plan.samples,
        "masks": plan.masks,
        "steps": result.step,
        "batch_size": settings.loop.batch_size,
        "seed": settings.loop.seed,
        "figures": result.figures,
    }
