"""Fine-tuning: an encoder and a head on the labels of a store; what `eokit finetune` calls. The labels tell the task.

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
from rich.filesize import decimal
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
from eokit.data.spec import LabelSpec
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.errors import DataError, UsageError
from eokit.models.base import Features
from eokit.models.bundle import CONFIG_FILE, Bundle, load_bundle, newest_bundle, save_bundle
from eokit.models.registry import build_encoder
from eokit.nn.device import pick_device
from eokit.tasks.classification import ClassificationModel, ClassificationRecipe
from eokit.tasks.features import Labels, Tokens, encode
from eokit.tasks.grid import choose_dense, patch_metres_of, patch_pixels, with_dense, with_patch
from eokit.tasks.inputs import Reading, batches, choose_split, label_layer, match_inputs, say_split, thin_out
from eokit.tasks.noise import random_batch
from eokit.tasks.segmentation import SegmentationModel, SegmentationRecipe
from eokit.tasks.task import Mode, Task, TaskRecipe, kind_of, pack_features, unpack_features, weights_from_counts
from eokit.training.checkpoint import find_start, resume_from
from eokit.training.distributed import is_first, team_size
from eokit.training.dry_run import PROBE, DryRun, dry_run, random_labels
from eokit.training.engine import FitResult, LoopSettings, Validation, fit
from eokit.training.run import About

VALIDATIONS = 10
"""Validations of a run, where the settings do not say every how many steps."""
START_PATCHES, START_TOKENS = 64, 512
"""Training patches, and tokens of each, whose features a new head starts from: a logistic regression of seconds."""
START_SAMPLES = 2048
"""Training samples whose features it starts from where a sample has one label; they are few numbers each."""
VALIDATE_PATCHES, VALIDATE_SAMPLES = 100, 1000
"""Samples of a validation, at most, of maps and of labels of whole samples."""
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
    head: Literal["linear", "conv", "dense"] | None = Field(
        default=None, description="null: conv for maps, linear for labels of whole samples, which have no other"
    )
    label: str | None = Field(default=None, description="label layer; null: semantic, else the only one there is")
    dense: str | None = Field(
        default=None, description="head dense: the modality of its features; null: the finest that fits the labels"
    )
    random_init: bool = Field(
        default=False, description="start from random weights of the same configuration, to compare"
    )
    patch_metres: int | None = Field(
        default=None, gt=0, description="edge of a patch of the encoder (AnySat); null: as the bundle keeps"
    )
    train_folds: tuple[int, ...] | None = None
    val_folds: tuple[int, ...] | None = Field(default=None, description="folds for early stopping; without any, none")
    class_weights: Literal["sqrt", "none"] | None = Field(
        default=None, description="sqrt: ~ 1 / sqrt(pixels of the class); null: sqrt, none for several classes at once"
    )
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
    patience: int = Field(default=PATIENCE, gt=0, description="stop after so many validations without a better score")
    validate_on: int | None = Field(
        default=None,
        gt=0,
        description="at most so many samples a validation, over all its folds; null: 100 with maps, else 1000",
    )
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
    layer: LabelSpec
    notes: list[str]
    recipe: TaskRecipe = field(init=False)
    dataset: SampleDataset = field(init=False)
    validation: SampleDataset | None = field(init=False)


@dataclass(frozen=True)
class FinetuneResult:
    """bundle: what evaluate and predict take. fit: how the training went. metric: what was validated, such as miou."""

    bundle: Path
    metric: str
    fit: FitResult
    split: Split
    synthetic: bool
    notes: tuple[str, ...]


def finetune(settings: FinetuneSettings) -> FinetuneResult:
    """Train, and write the bundle of the best validation score (of the last step where there is no validation fold)."""
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
    return FinetuneResult(out, plan.recipe.metric, result, plan.split, plan.store.synthetic, tuple(plan.notes))


def try_out(settings: FinetuneSettings) -> tuple[Plan, DryRun]:
    """What `settings` would do and cost, from one step on random numbers; writes nothing."""
    plan = lay_out(settings)
    batch = _random_batch(plan)
    if settings.mode == "head-only":
        model = plan.recipe.model
        with torch.no_grad():
            packed = pack_features(model.encoder.eval()(batch), model.head.reads)
        samples = len(plan.dataset) + len(plan.validation or ())
        kept = samples * sum(one.nbytes for one in packed[0].values())
        plan.notes.append(f"features of {samples} patches are computed first and kept: {decimal(kept)} of memory")
        given = [Sample({}, where, features) for where, features in zip(batch.where, packed, strict=True)]
        batch = Batch({}, batch.where, batch.targets | collate(given).targets)
    return plan, dry_run(plan.recipe, batch, settings.loop)


def _random_batch(plan: Plan) -> Batch:
    """A batch of noise in the shapes of a training sample, each modality and the labels on its own grid."""
    store, task, layer = plan.store, plan.recipe.model.task, plan.layer
    first = store.modalities[next(iter(plan.preprocessing.inputs))].shape[-1]

    def window(shape: tuple[int, ...]) -> tuple[int, int]:
        height, width = (side * (task.size or first) // first for side in shape) if task.size != first else shape
        return height, width

    dates, shapes = {}, {}
    for name in plan.preprocessing.inputs:
        longest = max(len(store.days(name, one)) for one in plan.dataset.indices)
        dates[name] = max(1, min(plan.settings.dates, longest))
        shapes[name] = (PROBE, *window(store.modalities[name].shape[-2:]))
    edges = window(layer.shape) if layer.is_map else ()
    labels = random_labels((PROBE, *(edges or layer.shape)), 2 if layer.multilabel else len(task.classes))
    return random_batch(plan.preprocessing, dates, shapes, {task.label: labels})


def run_folder(out: Path) -> Path:
    """The folder of the run, beside the bundle it makes."""
    return out.with_name(out.name + ".run")


def lay_out(settings: FinetuneSettings) -> Plan:
    """Load the bundle, open the store, check that they fit, build model and data sets, so that mistakes show now."""
    bundle, store = load_bundle(settings.bundle), Store.open(settings.data)
    layer, notes = label_layer(store, settings.label)
    split = choose_split(store.folds.tolist(), settings.train_folds, settings.val_folds)
    if not split.train:
        raise DataError(f"{store.path}: no fold is left to train on; name one with --train-folds")
    preprocessing, more = match_inputs(bundle.preprocessing, store, str(settings.bundle))
    notes += [*more, f"folds: {say_split(split)} (test is not touched)"]
    if not split.validation:
        notes.append("no validation fold: trains to the last step, without early stopping")
    torch.manual_seed(settings.loop.seed)
    if settings.random_init:
        bundle.encoder = build_encoder(bundle.encoder.family, None, bundle.encoder.config_dict())
    metres = patch_metres_of(bundle.encoder, store, preprocessing, settings.patch_metres, settings.crop)
    bundle.encoder = with_patch(bundle.encoder, metres)
    plan = Plan(settings, store, bundle, preprocessing, split, layer, notes)
    plan.recipe = make_recipe(plan)

    def samples(folds: tuple[int, ...], limit: int | None, **random: Any) -> SampleDataset:
        chosen, targets, dates = thin_out(store.select(folds), limit), (layer.name,), DatePolicy(settings.dates)
        return SampleDataset(store.path, chosen, preprocessing, targets=targets, dates=dates, **random)

    moving = {} if settings.mode == "head-only" else {"crop": settings.crop, "transforms": (FlipRotate(),)}
    plan.dataset = samples(split.train, settings.limit, seed=settings.loop.seed, **moving)
    most = settings.validate_on or (VALIDATE_PATCHES if layer.is_map else VALIDATE_SAMPLES)
    plan.validation = samples(split.validation, most) if split.validation else None
    return plan


def make_recipe(plan: Plan) -> TaskRecipe:
    """The model and the loss that the label layer asks for; the encoder is built to tell what the head reads."""
    settings, store, layer, inputs = plan.settings, plan.store, plan.layer, plan.preprocessing
    kind = kind_of(layer)
    head = settings.head or ("conv" if layer.is_map else "linear")
    if not layer.is_map and head != "linear":
        raise UsageError(f"--head {head} draws maps, {layer.name!r} is of whole samples; leave it out, or give linear")
    if settings.dense is not None and head != "dense":
        raise UsageError(f"dense = {settings.dense!r} is for --head dense, not for {head}")
    counts = store.class_counts(layer.name, plan.split.train)
    weights = weights_from_counts(counts, layer.ignore) if weighting(settings, layer) == "sqrt" else None
    encoder = plan.bundle.encoder
    if head == "dense":
        name = choose_dense(encoder, store, inputs, layer, settings.dense)
        encoder = plan.bundle.encoder = with_dense(encoder, name)
        plan.notes.append(f"dense features of {name}")
    size = settings.crop or store.modalities[next(iter(inputs.inputs))].shape[-1]
    patch = patch_pixels(encoder, store, inputs, layer) if layer.is_map else None
    task = Task(layer.classes or (), layer.ignore, head, layer.name, settings.dates, size, patch, kind)
    how = (weights, settings.mode, settings.encoder_lr_scale)
    if kind == "segmentation":
        return SegmentationRecipe(SegmentationModel(encoder, task), *how)
    return ClassificationRecipe(ClassificationModel(encoder, task), *how)


def weighting(settings: FinetuneSettings, layer: LabelSpec) -> Literal["sqrt", "none"]:
    """How classes weigh; a UsageError where they are asked to and a sample has several."""
    if layer.multilabel and settings.class_weights == "sqrt":
        raise UsageError(f"--class-weights sqrt is for one class a pixel or sample, {layer.name!r} has several")
    return settings.class_weights or ("none" if layer.multilabel else "sqrt")


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
    """Labelled vectors of some samples: of windows as training sees them (they have their places), none turned."""
    model, how = plan.recipe.model, reading(plan.settings)
    labels = Labels(model.task.label, len(model.task.classes), model.task.ignore)
    encoded: Iterable[tuple[Features, Tensor]]
    if isinstance(dataset, SampleDataset):
        some = copy(dataset)
        most = START_PATCHES if plan.layer.is_map else START_SAMPLES
        some.indices, some.transforms = thin_out(some.indices, most), ()
        encoded = encode(model.encoder, some, labels, how, what)
    else:
        encoded = ((unpack_features(batch), batch.targets[labels.name]) for batch in batches(dataset, how))
    return model.tokens(encoded, START_TOKENS, plan.settings.loop.seed)


class FeatureDataset(Dataset[Sample]):
    """The features of the patches of `dataset`, computed once and kept in memory beside their labels.

    A 128 px patch takes D x (128 / patch size)^2 x 4 bytes: 1.5 MB for 384 channels and patches of 4 px.
    """

    def __init__(self, plan: Plan, dataset: SampleDataset, what: str) -> None:
        self.samples: list[Sample] = []
        device, label = pick_device(plan.settings.loop.device), plan.layer.name
        encoder, reads = plan.recipe.model.encoder.to(device).eval(), plan.recipe.model.head.reads
        for batch in batches(dataset, reading(plan.settings), what):
            with torch.no_grad():
                packed = pack_features(encoder(batch), reads)
            labels = batch.targets[label].cpu()
            for where, features, truth in zip(batch.where, packed, labels, strict=True):
                self.samples.append(Sample({}, where, {label: truth} | features))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | Draw) -> Sample:
        return self.samples[key.index if isinstance(key, Draw) else key]


def validation_of(plan: Plan, dataset: Dataset[Sample] | None) -> Validation | None:
    """Scores whole samples of the validation folds; None without such a fold."""
    if dataset is None:
        return None
    settings, recipe = plan.settings, plan.recipe

    def run() -> dict[str, float]:
        return recipe.score(batches(dataset, reading(settings)))

    every = settings.validate_every or max(1, settings.loop.steps // VALIDATIONS)
    return Validation(every, run, recipe.metric, settings.patience, before=True)


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
        "recipe": plan.recipe.model.task.kind,
        "dataset": store.dataset,
        "synthetic": store.synthetic or (bool(before.get("synthetic")) and not settings.random_init),
        "train_folds": list(plan.split.train),
        "val_folds": list(plan.split.validation),
        "train_patches": len(plan.dataset),
        "mode": settings.mode,
        "random_init": settings.random_init,
        "class_weights": weighting(settings, plan.layer),
        "dates": settings.dates,
        "steps": result.step,
        "best_step": result.best_step,
        f"best_val_{plan.recipe.metric}": result.best_metric,
        "seed": settings.loop.seed,
        "pretrained": None if settings.random_init else before,
    }
