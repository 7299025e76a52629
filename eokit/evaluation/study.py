"""An evaluation laid out: settings, store, folds and what is judged, opened and checked before any work begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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
from eokit.data.spec import LabelSpec
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.errors import DataError, UsageError, WeightsError
from eokit.models.base import Encoder, TileOf
from eokit.models.bundle import Bundle, find_bundle, load_bundle, newest_bundle
from eokit.models.registry import build_encoder
from eokit.nn.device import pick_device
from eokit.tasks.features import MAX_TOKENS, Labels, Tokens, encode, sample_tokens
from eokit.tasks.grid import choose_dense, patch_metres_of, with_dense, with_patch, with_tile_of
from eokit.tasks.inputs import Reading, choose_split, label_layer, match_inputs, thin_out
from eokit.tasks.task import Task, kind_of

Protocol = Literal["knn", "linear", "finetuned", "random-forest", "raw-linear"]
BASELINES = ("random-forest", "raw-linear")
"""Protocols that need no bundle."""
READ_FOR = {"train": "features to learn from", "validation": "features to choose a penalty on"}
"""What the samples of a part are read for, as progress says it."""


class EvaluateSettings(Settings):
    """What `evaluate` is told. Folds that are not given are chosen, see `eokit.tasks.inputs.choose_split`."""

    bundle: Path | None = Field(default=None, description="null: the newest in ./runs, or none for a baseline")
    data: Path = Field(default_factory=only_store, description="the store")
    protocol: Protocol | None = Field(
        default=None, description="null: finetuned where the bundle has a head, else linear"
    )
    folds: tuple[int, ...] | None = Field(default=None, description="folds to score on")
    train_folds: tuple[int, ...] | None = Field(
        default=None, description="folds that a probe or a baseline learns from"
    )
    val_folds: tuple[int, ...] | None = Field(
        default=None, description="folds on which a linear probe picks its penalty"
    )
    label: str | None = Field(
        default=None, description="label layer; null: that of the head, else semantic, else the only one there is"
    )
    features: Literal["patch", "dense"] = Field(
        default="patch", description="linear, of maps: one vector a patch, or a sub-patch where the encoder has them"
    )
    dense: str | None = Field(
        default=None, description="features dense: the modality they are of; null: the finest that fits the labels"
    )
    patch_metres: int | None = Field(
        default=None, gt=0, description="edge of a patch of the encoder (AnySat); null: as the bundle keeps"
    )
    tile_of: TileOf | None = Field(
        default=None, description="knn, linear, of samples: what their vector is (AnySat); null: as the bundle keeps"
    )
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
        default=MAX_TOKENS, gt=0, description="tokens, pixels or samples that a probe or a baseline learns from"
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
    layer: LabelSpec
    split: Split
    preprocessing: Preprocessing
    reading: Reading
    bundle: Bundle | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by id."""
        return self.layer.classes or ()

    @property
    def labels(self) -> Labels:
        """The label layer as probes know it."""
        return Labels(self.layer.name, len(self.classes), self.layer.ignore)

    def dataset(self, part: Literal["train", "validation", "test"]) -> SampleDataset:
        """The patches of one part of the split, whole and in order; an empty part is a DataError."""
        folds = getattr(self.split, part)
        if not folds:
            there = sorted(set(self.store.folds.tolist()))
            raise DataError(f"{self.store.path} has no {part} fold left{_folds_left(there)}")
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
        encoded = encode(encoder, dataset, self.labels, self.reading, READ_FOR[part])
        share = math.ceil(self.settings.max_tokens / max(1, len(dataset)))
        how = self.settings
        return sample_tokens(encoded, self.labels, share=share, seed=how.seed, of=how.features)


def _folds_left(there: list[int]) -> str:
    """Which folds there are and what to do, for the message of a part that has none."""
    if len(there) > 1:
        return f" (it has folds {' '.join(map(str, there))}); name the folds to use"
    return (
        f" (it has one, {there[0]}): samples cannot be both learned from and scored; score on another store, or prepare"
        " one with more folds"
    )


def lay_out(settings: EvaluateSettings) -> Study:
    """Open everything and check that it fits together, before any work begins."""
    if settings.bundle is None and settings.protocol not in BASELINES:
        settings = settings.model_copy(update={"bundle": newest_bundle()})
    bundle = load_bundle(settings.bundle) if settings.bundle is not None else None
    judged_head = bundle is not None and chosen_protocol(settings, bundle) == "finetuned"
    store = Store.open(settings.data)
    if bundle is not None and judged_head:
        settings = as_told(settings, bundle, store)
    layer, chosen = label_layer(store, settings.label)
    split = choose_split(store.folds.tolist(), settings.train_folds, settings.val_folds, settings.folds)
    if bundle is not None and judged_head:
        split = as_learned(split, bundle, store)
    if bundle is not None:
        preprocessing, notes = match_inputs(bundle.preprocessing, store, str(settings.bundle), settings.modalities)
    else:
        names = settings.modalities or (("s2",) if "s2" in store.modalities else tuple(store.modalities)[:1])
        preprocessing, notes = make_preprocessing(store, names, split.train), []
    if bundle is not None and settings.random_init:
        torch.manual_seed(settings.seed)
        bundle.encoder = build_encoder(bundle.encoder.family, None, bundle.encoder.config_dict())
    if bundle is not None:
        bundle.encoder = fitted_encoder(settings, bundle, store, preprocessing, layer)
    reading = Reading(settings.batch_size, settings.workers, pick_device(settings.device), settings.quiet)
    study = Study(settings, store, layer, split, preprocessing, reading, bundle, [*chosen, *notes])
    study.notes += leaks(study)
    return study


def chosen_protocol(settings: EvaluateSettings, bundle: Bundle | None) -> Protocol:
    """The protocol asked for, or the one that fits the bundle."""
    protocol = settings.protocol or ("finetuned" if bundle is not None and bundle.task else "linear")
    if settings.random_init and protocol not in ("knn", "linear"):
        raise UsageError(f"--random-init is for the protocols knn and linear, not for {protocol}")
    if settings.patch_metres is not None and protocol in BASELINES:
        raise UsageError(f"--patch-metres {settings.patch_metres}: {protocol} reads the raw series, without an encoder")
    if settings.tile_of is not None and protocol not in ("knn", "linear"):
        raise UsageError(f"--tile-of {settings.tile_of} is for the protocols knn and linear, not for {protocol}")
    return protocol


def as_told(settings: EvaluateSettings, bundle: Bundle, store: Store) -> EvaluateSettings:
    """Settings with the dates and the label layer of a bundle's head where none are given."""
    task = bundle.task or {}
    label = settings.label or (task["label"] if task.get("label") in store.labels else None)
    return settings.model_copy(update={"dates": settings.dates or task.get("dates"), "label": label})


def fitted_encoder(
    settings: EvaluateSettings, bundle: Bundle, store: Store, inputs: Preprocessing, layer: LabelSpec
) -> Encoder:
    """The encoder of a bundle, built to tell what the protocol reads of it."""
    protocol, encoder = chosen_protocol(settings, bundle), bundle.encoder
    if protocol == "finetuned":
        _check_head_patch(settings, encoder)
        told = encoder.config_dict().get("dense")
        if told is not None and told not in inputs.inputs:
            raise WeightsError(f"{settings.bundle}: its head reads dense features of {told}, which is left out here")
        return encoder
    if protocol not in BASELINES:
        encoder = with_patch(encoder, patch_metres_of(encoder, store, inputs, settings.patch_metres))
        if settings.tile_of is not None and layer.is_map:
            raise UsageError(f"--tile-of {settings.tile_of} is for labels of samples, not for the map {layer.name!r}")
        encoder = with_tile_of(encoder, settings.tile_of)
    if settings.features == "patch":
        return with_dense(encoder, None)
    if protocol != "linear" or not layer.is_map:
        what = "maps" if protocol == "linear" else "the protocol linear"
        raise UsageError(f"--features dense is for {what}, not for {protocol} of {layer.name!r}; leave it out")
    return with_dense(encoder, choose_dense(encoder, store, inputs, layer, settings.dense))


def _check_head_patch(settings: EvaluateSettings, encoder: Encoder) -> None:
    """Refuse another patch size than that with which a head learned."""
    wanted, kept = settings.patch_metres, encoder.config_dict().get("patch_metres")
    if wanted not in (None, kept):
        learned = f"{kept} m" if kept else f"{encoder.patch_size} pixels"
        raise UsageError(
            f"--patch-metres {wanted}: the head of {settings.bundle} learned on patches of {learned};"
            " leave it out, or score the encoder by --protocol linear"
        )


def check_classes(study: Study, task: Task) -> None:
    """Refuse a head that predicts other classes than the labels have, or of other things (DataError)."""
    layer = f"{study.store.path}: label layer {study.layer.name!r}"
    if task.kind != kind_of(study.layer):
        raise DataError(f"{layer} is for {kind_of(study.layer)}, the model was made for {task.kind}; choose another")
    if task.classes != study.classes:
        raise DataError(
            f"{layer} has {len(study.classes)} classes"
            f" ({', '.join(study.classes[:3])} ...), the model predicts {len(task.classes)}"
            f" ({', '.join(task.classes[:3])} ...); score it on a store with its classes"
        )


def as_learned(split: Split, bundle: Bundle, store: Store) -> Split:
    """`split` with the folds that a fine-tuned bundle says it learned from; none where that was other data.

    Where no fold was left to score on, because a store of one fold is trained on first, all that it did not see are.
    """
    told = bundle.provenance if bundle.provenance.get("dataset") == store.dataset else {}
    train, validation = (tuple(told.get(key) or ()) for key in ("train_folds", "val_folds"))
    free = set(store.folds.tolist()) - {*train, *validation}
    return Split(train, validation, split.test or tuple(sorted(free)))


def support(tokens: Tokens, labels: Labels) -> np.ndarray:
    """(K,) tokens, pixels or samples per class."""
    if tokens.labels.ndim == 2:
        return tokens.labels.sum(0).numpy()
    return torch.bincount(tokens.labels, minlength=labels.n_classes).numpy()


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
