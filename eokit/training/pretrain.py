"""Pretraining an encoder on a store, without labels; what `eokit pretrain` calls.

The bundle holds the teacher's encoder, the moving average of the trained one, which is what I-JEPA evaluates; after a
run so short that the teacher is still partly its random start, it holds the student's.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from pydantic import Field

from eokit import __version__
from eokit.config import Settings
from eokit.data.dataset import DatePolicy, SampleDataset
from eokit.data.find import only_store
from eokit.data.preprocessing import Preprocessing
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.errors import UsageError
from eokit.models.base import config_from
from eokit.models.bundle import Bundle, save_bundle
from eokit.models.cropsts import CropSTS
from eokit.models.registry import build_encoder
from eokit.pretraining.ema import momentum_at
from eokit.pretraining.jepa import JEPA, JEPAConfig
from eokit.pretraining.masks import MaskTokens
from eokit.tasks.inputs import choose_split, thin_out
from eokit.tasks.noise import random_batch
from eokit.training.checkpoint import find_start, resume_from
from eokit.training.distributed import is_first, team_size
from eokit.training.dry_run import PROBE, DryRun, dry_run, every_other_token
from eokit.training.engine import FitResult, LoopSettings, fit
from eokit.training.run import About

PARCELS = "parcel"
"""The label layer that plot-wise masks are made of."""
LOOKED_AT = 8
"""Samples that are looked at to say what masks are made of."""


class Scale(NamedTuple):
    """How much a preset is fed, and for how long, where the settings do not say. crop: pixels."""

    batch_size: int
    crop: int
    dates: int
    steps: int = 1000
    epochs: float | None = None


SCALES = {
    "tiny": Scale(batch_size=16, crop=32, dates=16, steps=300),
    "parcel": Scale(batch_size=32, crop=64, dates=16, epochs=200),
    "paper": Scale(batch_size=32, crop=128, dates=32, epochs=200),
}
"""tiny: minutes on two cores. The others: batch and epochs that suit some thousand samples. A preset that is not here
is fed like `paper`."""

START_SHARE = 0.01
"""Share of a teacher's weights that may still be those it started with."""


class PretrainSettings(Settings):
    """What `pretrain` is told; values that are None are chosen by preset and store, see `lay_out`."""

    model: str = "cropsts"
    preset: str = Field(default="tiny", description="tiny (for a CPU), parcel (40 m patches) or paper (160 m patches)")
    data: Path | None = Field(default=None, description="the store; null: the only one in ./data")
    out: Path | None = Field(default=None, description="the folder of the run; null: ./runs/MODEL-TIME")
    folds: tuple[int, ...] | None = Field(
        default=None, description="null: all but the last two, which validate and test"
    )
    modalities: tuple[str, ...] | None = Field(default=None, description="null: s2, or the store's first")
    dates: int | None = Field(default=None, gt=0, description="at most so many dates a sample, drawn anew each time")
    crop: int | None = Field(
        default=None, gt=0, description="edge of the window of a sample, pixels, drawn anew each time"
    )
    limit: int | None = Field(default=None, gt=0, description="at most so many samples")
    epochs: float | None = Field(default=None, gt=0, description="passes over the samples, instead of loop.steps")
    encoder: dict[str, Any] = Field(default={}, description="values over those of the preset, e.g. depth")
    jepa: dict[str, Any] = Field(default={}, description="values of JEPAConfig, e.g. predictor_depth")
    loop: LoopSettings = LoopSettings()
    resume: str = Field(default="none", description="none, auto (the newest checkpoint in out, if any) or a checkpoint")
    quiet: bool = False


@dataclass
class Plan:
    """A pretraining laid out: `settings` without gaps, everything built, nothing written."""

    settings: PretrainSettings
    store: Store
    preprocessing: Preprocessing
    dataset: SampleDataset
    recipe: JEPA
    masks: str
    notes: list[str] = field(default_factory=list)


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
    return PretrainResult(bundle, result, plan.settings, plan.masks, plan.store.synthetic)


def try_out(settings: PretrainSettings) -> tuple[Plan, DryRun]:
    """What `settings` would do and cost, from one step on random numbers; writes nothing."""
    plan = lay_out(settings)
    dates, edge = plan.settings.dates or 1, plan.settings.crop or 1  # both are filled in
    masked = every_other_token(PROBE, edge // plan.recipe.encoder.patch_size)
    inputs = plan.preprocessing.inputs
    batch = random_batch(plan.preprocessing, dict.fromkeys(inputs, dates), (PROBE, edge, edge), {"masked": masked})
    return plan, dry_run(plan.recipe, batch, plan.settings.loop)


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


def lay_out(settings: PretrainSettings) -> Plan:
    """Open the store, fill in what the settings leave open, build recipe and data set: mistakes show before work."""
    if settings.epochs and "steps" in settings.loop.model_fields_set:
        both = f"steps = {settings.loop.steps} and epochs = {settings.epochs:g}"
        raise UsageError(f"{both}: a run has one length, give one of them")
    store = Store.open(settings.data or only_store())
    settings, notes = fill_in(settings, store)
    names, folds = settings.modalities or (), settings.folds
    preprocessing = make_preprocessing(store, names, folds)
    torch.manual_seed(settings.loop.seed)
    bands = {name: len(store.modalities[name].bands) for name in names}
    encoder = build_encoder(settings.model, settings.preset, {"modalities": bands} | settings.encoder)
    if settings.crop and settings.crop % encoder.patch_size:
        raise UsageError(f"crop = {settings.crop} px does not divide into patches of {encoder.patch_size} px")
    recipe = JEPA(cast(CropSTS, encoder), config_from(JEPAConfig, settings.jepa, "jepa"))
    masks = MaskTokens(encoder.patch_size)
    dataset = SampleDataset(
        store.path,
        thin_out(store.select(folds), settings.limit),
        preprocessing,
        targets=(PARCELS,) if PARCELS in store.labels else (),
        dates=DatePolicy(settings.dates) if settings.dates else None,
        crop=settings.crop,
        transforms=(FlipRotate(), masks),
        seed=settings.loop.seed,
    )
    hidden = describe_masks(masks, dataset)
    notes.append(f"masks hide {hidden}" + ("" if PARCELS in store.labels else f": the store has no layer {PARCELS!r}"))
    return Plan(settings, store, preprocessing, dataset, recipe, hidden, notes)


def fill_in(settings: PretrainSettings, store: Store) -> tuple[PretrainSettings, list[str]]:
    """The settings with every None that matters chosen, and a note for each choice that a person may want to know."""
    notes = []
    scale = SCALES.get(settings.preset, SCALES["paper"])
    folds = settings.folds or choose_split(store.folds.tolist()).train
    left = sorted(set(store.folds.tolist()) - set(folds))
    if settings.folds is None and left:
        notes.append(f"training on folds {_words(folds)}; {_words(left)} are left to validate and test")
    modalities = settings.modalities or (("s2",) if "s2" in store.modalities else tuple(store.modalities)[:1])
    unknown = [name for name in modalities if name not in store.modalities]
    if unknown:
        raise UsageError(f"modality {unknown[0]!r} is not in {store.path}; it has {', '.join(store.modalities)}")
    edge = min(min(store.modalities[name].shape[1:]) for name in modalities)
    samples = len(thin_out(store.select(folds), settings.limit))
    loop = settings.loop
    if "batch_size" not in loop.model_fields_set:
        loop = loop.model_copy(update={"batch_size": scale.batch_size})
    told = "steps" in loop.model_fields_set
    epochs = settings.epochs or (None if told else scale.epochs)
    steps = loop.steps if told else scale.steps
    if epochs:
        steps = max(1, math.ceil(epochs * samples / loop.batch_size))
    filled = {
        "data": store.path.resolve(),
        "folds": tuple(folds),
        "modalities": tuple(modalities),
        "dates": settings.dates or scale.dates,
        "crop": settings.crop or min(scale.crop, edge),
        "epochs": None,
        "loop": loop.model_copy(update={"steps": steps}),
    }
    origin = store.dataset + (" (SYNTHETIC)" if store.synthetic else "")
    epochs = steps * loop.batch_size / samples
    notes.append(f"{steps:,} steps of {loop.batch_size} over {samples:,} samples of {origin}: {epochs:,.1f} epochs")
    return settings.model_copy(update=filled), notes


def kept_encoder(recipe: JEPA, steps: int) -> Literal["teacher", "student"]:
    """Which encoder a run of `steps` keeps: the teacher, unless more than `START_SHARE` of it is the random start.

    With I-JEPA's momentum that is so below some 2,300 steps. A faster teacher is no way out: at 150 steps it followed
    the student into a partial collapse.
    """
    start = math.prod(momentum_at((step + 1) / steps, *recipe.config.momentum) for step in range(steps))
    return "student" if start > START_SHARE else "teacher"


def describe_masks(masks: MaskTokens, dataset: SampleDataset) -> str:
    """What masks hide in the first samples: "parcels", "blocks", or how many of each."""
    kinds = [masks.describe(dataset[number]) for number in range(min(LOOKED_AT, len(dataset)))]
    if len(set(kinds)) == 1:
        return kinds[0]
    return f"parcels (blocks where none fits: {kinds.count('blocks')} of {len(kinds)} samples looked at)"


def provenance(plan: Plan, result: FitResult) -> dict[str, Any]:
    """How the bundle came to be."""
    settings = plan.settings
    return {
        "eokit": __version__,
        "recipe": "jepa",
        "encoder": kept_encoder(plan.recipe, result.step),
        "preset": settings.preset,
        "dataset": plan.store.dataset,
        "synthetic": plan.store.synthetic,
        "folds": list(settings.folds or ()),
        "samples": len(plan.dataset),
        "masks": plan.masks,
        "steps": result.step,
        "batch_size": settings.loop.batch_size,
        "seed": settings.loop.seed,
        "figures": result.figures,
    }


def _words(numbers: Iterable[int]) -> str:
    return " ".join(str(number) for number in numbers)
