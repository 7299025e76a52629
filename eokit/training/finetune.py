"""Fine-tuning: an encoder and a segmentation head on the labels of a store; what `eokit finetune` calls.

out/                 the bundle: encoder, head, preprocessing, provenance
out.run/             settings, events, checkpoints of the run (see eokit.training.engine)
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from eokit import __version__
from eokit.config import Settings
from eokit.data.collate import collate
from eokit.data.dataset import DatePolicy, Draw, SampleDataset
from eokit.data.find import only_store
from eokit.data.folds import Split
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch, Sample
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.errors import DataError, UsageError
from eokit.models.base import Features
from eokit.models.bundle import CONFIG_FILE, Bundle, load_bundle, newest_bundle, save_bundle
from eokit.models.registry import build_encoder
from eokit.nn.device import pick_device
from eokit.tasks.features import Labels, Tokens, encode, sample_tokens
from eokit.tasks.inputs import Reading, batches, choose_split, label_layer, match_inputs, say_split, thin_out
from eokit.tasks.metrics import scores
from eokit.tasks.noise import random_batch
from eokit.tasks.segmentation import (
    Mode,
    SegmentationModel,
    SegmentationRecipe,
    Task,
    pack_features,
    patch_matrices,
    unpack_features,
    weights_from_counts,
)
from eokit.training.checkpoint import find_start, resume_from
from eokit.training.distributed import is_first, team_size
from eokit.training.dry_run import PROBE, DryRun, dry_run, random_labels
from eokit.training.engine import FitResult, LoopSettings, Validation, fit
from eokit.training.run import About

VALIDATIONS = 10
"""Validations of a run, where the settings do not say every how many steps."""
START_PATCHES, START_TOKENS = 64, 512
"""Training patches, and tokens of each, whose features a new head starts from: a logistic regression of seconds."""
PATIENCE = 8
"""Most of a run: the rate falls along a cosine, and much of the gain comes in its last, slow part."""


class FinetuneLoop(LoopSettings):
    """The loop's settings with the defaults of fine-tuning: shorter, and a rate for a head that starts from nothing."""

    steps: int = Field(default=500, gt=0, description="optimiser steps of the whole run")
    batch_size: int = Field(default=16, gt=0, description="samples a step, over all processes and micro-batches")
    lr: float = Field(default=1e-3, gt=0, description="highest learning rate (of the head)")


class FinetuneSettings(Settings):
    """What `finetune` is told. Folds that are not given are chosen, see `eokit.tasks.inputs.choose_split`."""

    bundle: Path = Field(default_factory=newest_bundle, description="run or bundle with the encoder to fine-tune")
    data: Path = Field(default_factory=only_store, description="the store")
    out: Path = Field(default_factory=lambda: Path("runs") / time.strftime("finetune-%Y%m%d-%H%M%S"),
                      description="the bundle that is written")  # fmt: skip
    mode: Mode = Field(default="full", description="full, frozen or head-only, see eokit.tasks.segmentation.Mode")
    head: Literal["linear", "conv"] = "conv"
    label: str = "semantic"
    random_init: bool = Field(
        default=False, description="start from random weights of the same configuration, to compare"
    )
    train_folds: tuple[int, ...] | None = None
    val_folds: tuple[int, ...] | None = Field(default=None, description="folds for early stopping; without any, none")
    class_weights: Literal["sqrt", "none"] = Field(default="sqrt", description="sqrt: ~ 1 / sqrt(pixels of the class)")
    encoder_lr_scale: float = Field(
        default=0.25, gt=0, description="mode full: the encoder's learning rate over the head's"
    )
    dates: int = Field(
        default=32, gt=0, description="at most so many dates a sample: random in training, else evenly spaced"
    )
    crop: int | None = Field(
        default=None, gt=0, description="edge of the window of a training sample, pixels; null: all of it"
    )
    validate_every: int | None = Field(default=None, gt=0, description="steps; null: ten validations a run")
    patience: int = Field(default=PATIENCE, gt=0, description="stop after so many validations without a better mIoU")
    validate_on: int = Field(default=100, gt=0, description="at most so many patches a validation, over all its folds")
    limit: int | None = Field(default=None, gt=0, description="at most so many training patches")
    loop: FinetuneLoop = FinetuneLoop()
    resume: str = Field(default="none", description="none, auto (the newest checkpoint, if any) or a checkpoint")
    quiet: bool = False


@dataclass
class Plan:
    """A fine-tuning laid out: everything opened, checked and built, nothing written."""

    settings: FinetuneSettings
    store: Store
    bundle: Bundle
    preprocessing: Preprocessing
    split: Split
    recipe: SegmentationRecipe
    dataset: SampleDataset
    validation: SampleDataset | None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FinetuneResult:
    """bundle: what evaluate and predict take. fit: how the training went; its metric is the validation mIoU."""

    bundle: Path
    fit: FitResult
    split: Split
    synthetic: bool
    notes: tuple[str, ...]


def finetune(settings: FinetuneSettings) -> FinetuneResult:
    """Train, and write the bundle of the best validation mIoU (of the last step where there is no validation fold)."""
    out, resume = settings.out, resume_from(settings.resume)
    if "out" not in settings.model_fields_set and (resume or team_size() > 1):
        raise UsageError("name the bundle with --out: it is needed to resume, and under torchrun")
    if is_first():
        check_out(out)
        find_start(run_folder(out), resume)  # before the data are opened: the plainest mistake first
    plan = lay_out(settings)
    dataset, validation = data_of(plan)
    about = About(
        settings.model_dump(mode="json", exclude={"out", "resume", "quiet"}),
        again=f"eokit finetune --out {shlex.quote(str(out))} --resume auto",
        quiet=settings.quiet,
    )
    start_head(plan, dataset, validation)
    validating = validation_of(plan, validation)
    result = fit(
        plan.recipe, dataset, settings.loop, run_folder(out), validation=validating, resume=resume, about=about
    )
    if is_first():
        model = plan.recipe.model.cpu()
        save_bundle(out, model.to_bundle(plan.preprocessing, provenance(plan, result)))
    return FinetuneResult(out, result, plan.split, plan.store.synthetic, tuple(plan.notes))


def try_out(settings: FinetuneSettings) -> tuple[Plan, DryRun]:
    """What `settings` would do and cost, from one step on random numbers; writes nothing."""
    plan = lay_out(settings)
    task, encoder = plan.recipe.model.task, plan.recipe.model.encoder
    days = [len(plan.store.days(name, one)) for name in plan.preprocessing.inputs for one in plan.dataset.indices]
    dates = dict.fromkeys(plan.preprocessing.inputs, min(settings.dates, max(days)))
    edge = task.size or 1  # it is filled in
    labels = {task.label: random_labels(PROBE, edge, len(task.classes))}
    batch = random_batch(plan.preprocessing, dates, (PROBE, edge, edge), labels)
    if settings.mode == "head-only":
        with torch.no_grad():
            packed = pack_features(encoder.eval()(batch))
        patches = len(plan.dataset) + len(plan.validation or ())
        kept = patches * sum(one.nbytes for one in packed[0].values())
        plan.notes.append(f"features of {patches} patches are computed first and kept: {kept / 1e9:.2f} GB of memory")
        samples = [Sample({}, where, features) for where, features in zip(batch.where, packed, strict=True)]
        batch = Batch({}, batch.where, batch.targets | collate(samples).targets)
    return plan, dry_run(plan.recipe, batch, settings.loop)


def run_folder(out: Path) -> Path:
    """The folder of the run, beside the bundle it makes."""
    return out.with_name(out.name + ".run")


def lay_out(settings: FinetuneSettings) -> Plan:
    """Load the bundle, open the store, check that they fit, build model and data sets, so that mistakes show now."""
    bundle, store = load_bundle(settings.bundle), Store.open(settings.data)
    classes, ignore = label_layer(store, settings.label)
    split = choose_split(store.folds.tolist(), settings.train_folds, settings.val_folds)
    if not split.train:
        raise DataError(f"{store.path}: no fold is left to train on; name one with --train-folds")
    preprocessing, notes = match_inputs(bundle.preprocessing, store, str(settings.bundle))
    notes.append(f"folds: {say_split(split)} (test is not touched)")
    if not split.validation:
        notes.append("no validation fold: trains to the last step, without early stopping")
    torch.manual_seed(settings.loop.seed)
    if settings.random_init:
        bundle.encoder = build_encoder(bundle.encoder.family, None, bundle.encoder.config_dict())
    counts = store.class_counts(settings.label, split.train)
    weights = weights_from_counts(counts, ignore) if settings.class_weights == "sqrt" else None
    size = settings.crop or store.modalities[next(iter(preprocessing.inputs))].shape[-1]
    task = Task(classes, ignore, settings.head, settings.label, settings.dates, size)
    model = SegmentationModel(bundle.encoder, task)
    recipe = SegmentationRecipe(model, weights, settings.mode, settings.encoder_lr_scale)

    def patches(folds: tuple[int, ...], limit: int | None, **random: Any) -> SampleDataset:
        chosen, targets, dates = thin_out(store.select(folds), limit), (settings.label,), DatePolicy(settings.dates)
        return SampleDataset(store.path, chosen, preprocessing, targets=targets, dates=dates, **random)

    moving = {} if settings.mode == "head-only" else {"crop": settings.crop, "transforms": (FlipRotate(),)}
    dataset = patches(split.train, settings.limit, seed=settings.loop.seed, **moving)
    validation = patches(split.validation, settings.validate_on) if split.validation else None
    return Plan(settings, store, bundle, preprocessing, split, recipe, dataset, validation, notes)


def data_of(plan: Plan) -> tuple[Dataset[Sample], Dataset[Sample] | None]:
    """The data that the recipe steps over and is validated on: patches, or in mode head-only their features."""
    if plan.settings.mode != "head-only":
        return plan.dataset, plan.validation
    kept = FeatureDataset(plan, plan.dataset, "features to train on")
    return kept, FeatureDataset(plan, plan.validation, "features to validate on") if plan.validation else None


def start_head(plan: Plan, dataset: Dataset[Sample], validation: Dataset[Sample] | None) -> None:
    """Let the head begin as a linear probe, on features of some patches, of the encoder before it learns."""
    train = head_tokens(plan, dataset, "features to start from")
    val = head_tokens(plan, validation, "features to choose a penalty on") if validation is not None else None
    plan.recipe.model.head.start(train, val)


def head_tokens(plan: Plan, dataset: Dataset[Sample], what: str) -> Tokens:
    """Labelled tokens of some patches: of windows as training sees them (they have their places), none turned."""
    task, encoder, how = plan.recipe.model.task, plan.recipe.model.encoder, reading(plan.settings)
    labels = Labels(task.label, len(task.classes), task.ignore)
    encoded: Iterable[tuple[Features, Tensor]]
    if isinstance(dataset, SampleDataset):
        some = copy(dataset)
        some.indices, some.transforms = thin_out(some.indices, START_PATCHES), ()
        encoded = encode(encoder, some, labels, how, what)
    else:
        encoded = ((unpack_features(batch), batch.targets[task.label]) for batch in batches(dataset, how))
    return sample_tokens(encoded, encoder.patch_size, labels, share=START_TOKENS, seed=plan.settings.loop.seed)


class FeatureDataset(Dataset[Sample]):
    """The features of the patches of `dataset`, computed once and kept in memory beside their labels.

    A 128 px patch takes D x (128 / patch size)^2 x 4 bytes: 1.5 MB for 384 channels and patches of 4 px.
    """

    def __init__(self, plan: Plan, dataset: SampleDataset, what: str) -> None:
        self.samples: list[Sample] = []
        device, label = pick_device(plan.settings.loop.device), plan.settings.label
        encoder = plan.recipe.model.encoder.to(device).eval()
        for batch in batches(dataset, reading(plan.settings), what):
            with torch.no_grad():
                packed = pack_features(encoder(batch))
            labels = batch.targets[label].cpu()
            for where, features, truth in zip(batch.where, packed, labels, strict=True):
                self.samples.append(Sample({}, where, {label: truth} | features))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Sample:
        return self.samples[key.index if isinstance(key, Draw) else key]


def validation_of(plan: Plan, dataset: Dataset[Sample] | None) -> Validation | None:
    """Scores by mIoU over whole patches of the validation folds; None without such a fold."""
    if dataset is None:
        return None
    settings, recipe = plan.settings, plan.recipe
    task = recipe.model.task

    def run() -> dict[str, float]:
        matrices = patch_matrices(recipe.predict, batches(dataset, reading(settings)), task)
        got = scores(matrices.sum(0), task.classes, task.ignore)
        return {"miou": got["miou"], "oa": got["oa"], "macro_f1": got["macro_f1"]}

    every = settings.validate_every or max(1, settings.loop.steps // VALIDATIONS)
    return Validation(every, run, "miou", settings.patience, before=True)


def reading(settings: FinetuneSettings) -> Reading:
    """How whole patches are read for validation and features: half the training batch, which carries no gradients."""
    return Reading(max(1, settings.loop.batch_size // 2), 0, pick_device(settings.loop.device), settings.quiet)


def check_out(out: Path) -> None:
    """Refuse to replace anything but an older bundle."""
    if out.exists() and not (out / CONFIG_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there and is no bundle; choose another --out")


def provenance(plan: Plan, result: FitResult) -> dict[str, Any]:
    """How the bundle came to be; `pretrained` is the provenance of the encoder it started from."""
    settings, store = plan.settings, plan.store
    before = plan.bundle.provenance
    return {
        "eokit": __version__,
        "recipe": "segmentation",
        "dataset": store.dataset,
        "synthetic": store.synthetic or (bool(before.get("synthetic")) and not settings.random_init),
        "train_folds": list(plan.split.train),
        "val_folds": list(plan.split.validation),
        "train_patches": len(plan.dataset),
        "mode": settings.mode,
        "random_init": settings.random_init,
        "class_weights": settings.class_weights,
        "dates": settings.dates,
        "steps": result.step,
        "best_step": result.best_step,
        "best_val_miou": result.best_metric,
        "seed": settings.loop.seed,
        "pretrained": None if settings.random_init else before,
    }
