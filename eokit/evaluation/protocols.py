"""Evaluation protocols on a store's folds; each turns what is being judged into one confusion matrix a patch.

knn            nearest labelled tokens of the training folds vote; scored per token
linear         one linear layer per token on fixed features, its logits upsampled; scored per pixel
finetuned      the bundle's own head; scored per pixel
random-forest  the baseline on raw pixel series, needs no bundle; scored per pixel
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from eokit.config import Settings
from eokit.data.dataset import DatePolicy, SampleDataset
from eokit.data.find import only_store
from eokit.data.folds import Split
from eokit.data.preprocessing import Preprocessing
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.errors import DataError, UsageError
from eokit.evaluation import random_forest
from eokit.evaluation.knn import TEMPERATURE, Neighbours
from eokit.evaluation.report import Report
from eokit.models.base import Encoder
from eokit.models.bundle import Bundle, find_bundle, load_bundle, newest_bundle
from eokit.models.registry import build_encoder
from eokit.nn.device import pick_device
from eokit.tasks import linear_probe
from eokit.tasks.features import MAX_TOKENS, Labels, Tokens, encode, gather_tokens
from eokit.tasks.heads import to_pixels
from eokit.tasks.inputs import Reading, batches, choose_split, label_layer, majority, match_inputs, thin_out
from eokit.tasks.metrics import confusion
from eokit.tasks.segmentation import SegmentationModel, patch_matrices

FEW = 20
"""With fewer test patches than this a bootstrap over patches hardly varies, and classes drop out of its resamples."""

Protocol = Literal["knn", "linear", "finetuned", "random-forest"]


class EvaluateSettings(Settings):
    """What `evaluate` is told. Folds that are not given are chosen, see `eokit.tasks.inputs.choose_split`."""

    bundle: Path | None = Field(default=None, description="null: the newest in ./runs, or none for the random forest")
    data: Path = Field(default_factory=only_store, description="the store")
    protocol: Protocol | None = Field(
        default=None, description="null: finetuned where the bundle has a head, else linear"
    )
    folds: tuple[int, ...] | None = Field(default=None, description="folds to score on")
    train_folds: tuple[int, ...] | None = Field(
        default=None, description="folds that a probe or the forest learns from"
    )
    val_folds: tuple[int, ...] | None = Field(
        default=None, description="folds on which the linear probe picks its penalty"
    )
    label: str = "semantic"
    modalities: tuple[str, ...] | None = Field(
        default=None, description="use only these; null: all that model and store share"
    )
    dates: int | None = Field(
        default=None,
        gt=0,
        description="at most so many dates a patch, evenly spaced; null: as many as a head learned from, else all",
    )
    random_init: bool = Field(
        default=False, description="knn, linear: judge a random encoder of the same configuration"
    )
    max_tokens: int = Field(
        default=MAX_TOKENS, gt=0, description="tokens or pixels that a probe or the forest learns from"
    )
    batch_size: int = Field(default=8, gt=0)
    workers: int = Field(default=0, ge=0)
    device: str = "auto"
    seed: int = Field(default=0, ge=0)
    limit: int | None = Field(
        default=None, gt=0, description="at most so many patches of each of train, validation and test"
    )
    quiet: bool = False


@dataclass
class Study:
    """An evaluation laid out: the data of its three parts and what is judged."""

    settings: EvaluateSettings
    store: Store
    labels: Labels
    classes: tuple[str, ...]
    split: Split
    preprocessing: Preprocessing
    reading: Reading
    bundle: Bundle | None = None
    notes: list[str] = field(default_factory=list)

    def dataset(self, part: Literal["train", "validation", "test"]) -> SampleDataset:
        """The patches of one part of the split, whole and in order; an empty part is a DataError."""
        folds = getattr(self.split, part)
        if not folds:
            there = " ".join(map(str, sorted(set(self.store.folds.tolist()))))
            raise DataError(f"{self.store.path} has no {part} fold left (it has folds {there}); name the folds to use")
        chosen = thin_out(self.store.select(folds), self.settings.limit)
        dates = DatePolicy(self.settings.dates) if self.settings.dates else None
        return SampleDataset(self.store.path, chosen, self.preprocessing, targets=(self.labels.name,), dates=dates)

    @property
    def synthetic(self) -> bool:
        """Whether what is scored on, or what the judged weights learned from, was made up."""
        learned = self.bundle is not None and not self.settings.random_init and self.bundle.provenance.get("synthetic")
        return self.store.synthetic or bool(learned)

    @property
    def encoder(self) -> Encoder:
        """The encoder that is judged."""
        assert self.bundle is not None
        return self.bundle.encoder

    def tokens(self, part: Literal["train", "validation"]) -> Tokens:
        """Labelled tokens of one part of the split."""
        dataset, encoder = self.dataset(part), self.encoder
        encoded = encode(encoder, dataset, self.labels, self.reading, "features to learn from")
        share = math.ceil(self.settings.max_tokens / max(1, len(dataset)))
        return gather_tokens(encoded, self.labels, share=share, seed=self.settings.seed)


@dataclass(frozen=True)
class Outcome:
    """matrices: (N, K, K), one a patch. unit: what they count. train_support: (K,) units learned from per class."""

    matrices: np.ndarray
    unit: Literal["token", "pixel"]
    details: dict[str, Any]
    train_support: np.ndarray | None = None


def evaluate(settings: EvaluateSettings) -> Report:
    """Score a bundle (or the random forest) on the test folds of a store."""
    study = lay_out(settings)
    protocol = chosen_protocol(settings, study.bundle)
    outcome = PROTOCOLS[protocol](study)
    if len(outcome.matrices) < FEW:
        study.notes.append(f"only {len(outcome.matrices)} patches: the intervals are rough, rare classes come and go")
    return Report.from_patches(
        outcome.matrices,
        ignore=study.labels.ignore,
        seed=settings.seed,
        protocol=protocol + (" (random encoder)" if settings.random_init else ""),
        unit=outcome.unit,
        data=study.store.dataset,
        synthetic=study.synthetic,
        folds=study.split,
        classes=study.classes,
        train_support=outcome.train_support,
        details=outcome.details,
        provenance=provenance(study),
        notes=tuple(study.notes),
    )


def lay_out(settings: EvaluateSettings) -> Study:
    """Open everything and check that it fits together, before any work begins."""
    if settings.bundle is None and settings.protocol != "random-forest":
        settings = settings.model_copy(update={"bundle": newest_bundle()})
    bundle = load_bundle(settings.bundle) if settings.bundle is not None else None
    if settings.dates is None and bundle is not None and chosen_protocol(settings, bundle) == "finetuned":
        settings = settings.model_copy(update={"dates": (bundle.task or {}).get("dates")})
    store = Store.open(settings.data)
    layer, _ = label_layer(store, settings.label)
    classes, ignore = layer.classes or (), layer.ignore
    split = choose_split(store.folds.tolist(), settings.train_folds, settings.val_folds, settings.folds)
    if bundle is not None and chosen_protocol(settings, bundle) == "finetuned":
        split = as_learned(split, bundle, store)
    if bundle is not None:
        preprocessing, notes = match_inputs(bundle.preprocessing, store, str(settings.bundle))
    else:
        names = settings.modalities or (("s2",) if "s2" in store.modalities else tuple(store.modalities)[:1])
        preprocessing, notes = make_preprocessing(store, names, split.train), []
    if settings.modalities is not None:
        preprocessing = only(preprocessing, settings.modalities)
    if bundle is not None and settings.random_init:
        torch.manual_seed(settings.seed)
        bundle.encoder = build_encoder(bundle.encoder.family, None, bundle.encoder.config_dict())
    labels = Labels(settings.label, len(classes), ignore)
    reading = Reading(settings.batch_size, settings.workers, pick_device(settings.device), settings.quiet)
    study = Study(settings, store, labels, classes, split, preprocessing, reading, bundle, notes)
    study.notes += leaks(study)
    return study


def chosen_protocol(settings: EvaluateSettings, bundle: Bundle | None) -> Protocol:
    """The protocol asked for, or the one that fits the bundle."""
    protocol = settings.protocol or ("finetuned" if bundle is not None and bundle.task else "linear")
    if settings.random_init and protocol not in ("knn", "linear"):
        raise UsageError(f"--random-init is for the protocols knn and linear, not for {protocol}")
    return protocol


def as_learned(split: Split, bundle: Bundle, store: Store) -> Split:
    """`split` with the folds that a fine-tuned bundle says it learned from; none where that was other data."""
    told = bundle.provenance if bundle.provenance.get("dataset") == store.dataset else {}
    return Split(tuple(told.get("train_folds") or ()), tuple(told.get("val_folds") or ()), split.test)


def knn(study: Study) -> Outcome:
    """Nearest neighbours among token features."""
    train = study.tokens("train")
    bank = Neighbours.fit(train, study.labels.n_classes, study.reading.device)
    matrices = []
    for features, pixels in encode(study.encoder, study.dataset("test"), study.labels, study.reading, "kNN"):
        truth = majority(pixels, study.encoder.patch_size, study.labels.n_classes, study.labels.ignore)
        votes = bank.votes(features.patch.movedim(1, -1).flatten(0, 2))
        matrices.append(confusion(votes.argmax(1).view(truth.shape), truth, study.labels.n_classes, -1))
    details = {"k": bank.k, "temperature": TEMPERATURE, "train_tokens": len(train.labels)}
    return Outcome(torch.cat(matrices).numpy(), "token", details, support(train, study.labels))


def linear(study: Study) -> Outcome:
    """A linear layer per token, bilinear upsampling of its logits."""
    train = study.tokens("train")
    val = study.tokens("validation") if study.split.validation else None
    probe = linear_probe.fit(train, val, study.labels.n_classes)
    matrices = []
    for features, pixels in encode(study.encoder, study.dataset("test"), study.labels, study.reading, "linear probe"):
        logits = probe.logits(features.patch.movedim(1, -1)).movedim(-1, 1)
        prediction = to_pixels(logits, study.encoder.patch_size).argmax(1)
        matrices.append(confusion(prediction, pixels, study.labels.n_classes, study.labels.ignore))
    details = {"l2": probe.l2, "l2_chosen_on": probe.chosen_on, "train_tokens": len(train.labels)}
    return Outcome(torch.cat(matrices).numpy(), "pixel", details, support(train, study.labels))


def finetuned(study: Study) -> Outcome:
    """The bundle's own head."""
    assert study.bundle is not None
    model = SegmentationModel.from_bundle(study.bundle, str(study.settings.bundle)).to(study.reading.device).eval()
    if model.task.classes != study.classes:
        raise DataError(
            f"{study.store.path}: label layer {study.labels.name!r} has {len(study.classes)} classes"
            f" ({', '.join(study.classes[:3])} ...), the model predicts {len(model.task.classes)}"
            f" ({', '.join(model.task.classes[:3])} ...); score it on a store with its classes"
        )
    task = replace(model.task, label=study.labels.name, ignore=study.labels.ignore)
    reader = batches(study.dataset("test"), study.reading, "evaluate")
    with torch.inference_mode():
        matrices = patch_matrices(lambda batch: model(batch).argmax(1), reader, task)
    return Outcome(matrices.numpy(), "pixel", {"head": model.task.head})


def forest(study: Study) -> Outcome:
    """A random forest on raw pixel series."""
    settings, labels = study.settings, study.labels
    train = study.dataset("train")
    names = study.preprocessing.inputs
    grid = random_forest.common_grid([study.store.days(name, one) for name in names] for one in train.indices)
    fitted = random_forest.fit(
        train, labels, grid, max_pixels=settings.max_tokens, seed=settings.seed, quiet=settings.quiet
    )
    matrices = []
    for sample in random_forest.shown(study.dataset("test"), "random forest", settings.quiet):
        truth = random_forest.same_grid(sample, labels)
        prediction = fitted.predict(sample, (truth.shape[0], truth.shape[1]))
        matrices.append(confusion(prediction[None], truth[None], labels.n_classes, labels.ignore))
    details: dict[str, Any] = {
        "trees": random_forest.TREES,
        "columns": int(fitted.model.n_features_in_),
    }
    details |= {"modalities": list(study.preprocessing.inputs), "train_pixels": int(fitted.support.sum())}
    return Outcome(torch.cat(matrices).numpy(), "pixel", details, fitted.support)


PROTOCOLS: dict[str, Callable[[Study], Outcome]] = {
    "knn": knn,
    "linear": linear,
    "finetuned": finetuned,
    "random-forest": forest,
}


def support(tokens: Tokens, labels: Labels) -> np.ndarray:
    """(K,) tokens per class."""
    return torch.bincount(tokens.labels, minlength=labels.n_classes).numpy()


def only(preprocessing: Preprocessing, names: tuple[str, ...]) -> Preprocessing:
    """The inputs called `names`; one that is not there is a UsageError."""
    missing = [name for name in names if name not in preprocessing.inputs]
    if missing:
        raise UsageError(f"modality {missing[0]!r} is not among {', '.join(preprocessing.inputs)}")
    return Preprocessing({name: preprocessing.inputs[name] for name in names})


def leaks(study: Study) -> list[str]:
    """A note for each way in which what is judged has seen the test folds before."""
    if study.bundle is None or study.settings.random_init:
        return []
    last = study.bundle.provenance
    first = last.get("pretrained") or (last if study.bundle.task is None else {})
    seen = [
        (last, "train_folds", "the bundle was fine-tuned on", "these scores are too good"),
        (last, "val_folds", "the bundle was chosen on", "these scores are a little too good"),
        (first, "folds", "the encoder was pretrained, without labels, on", "say so beside the scores"),
    ]
    notes = []
    for where, key, what, then in seen:
        both = sorted(set(where.get(key) or ()) & set(study.split.test))
        if both and where.get("dataset") == study.store.dataset:
            notes.append(f"{what} test fold {' '.join(map(str, both))}: {then}")
    return notes


def provenance(study: Study) -> dict[str, Any]:
    """Where the scores come from: the store, the bundle and how it came to be."""
    facts: dict[str, Any] = {"store": str(study.store.path), "seed": study.settings.seed}
    facts["modalities"] = list(study.preprocessing.inputs)
    if study.settings.bundle is not None and study.bundle is not None:
        encoder = study.bundle.encoder
        facts |= {"bundle": str(find_bundle(study.settings.bundle)), "family": encoder.family}
        facts |= {"model": encoder.config_dict(), "random_init": study.settings.random_init}
        facts["bundle_provenance"] = study.bundle.provenance
    return facts
