"""Protocols for label maps; each turns what is being judged into one confusion matrix a patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eokit.data.sample import Sample
from eokit.evaluation import raw_series
from eokit.evaluation.knn import TEMPERATURE, Neighbours
from eokit.evaluation.random_forest import TREES, Forest
from eokit.evaluation.report import Report
from eokit.evaluation.study import Study, check_classes, support
from eokit.tasks import linear_probe
from eokit.tasks.features import Tokens, encode, token_maps, token_pixels
from eokit.tasks.heads import to_pixels
from eokit.tasks.inputs import batches, majority
from eokit.tasks.metrics import confusion
from eokit.tasks.segmentation import SegmentationModel, patch_matrices


@dataclass(frozen=True)
class MapOutcome:
    """matrices: (N, K, K), one a patch. unit: what they count. train_support: (K,) units learned from per class."""

    matrices: np.ndarray
    unit: Literal["token", "pixel"]
    details: dict[str, Any]
    train_support: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.matrices)

    def report(self, study: Study, **facts: Any) -> Report:
        """The report, with facts that no protocol changes."""
        return Report.from_patches(
            self.matrices,
            ignore=study.labels.ignore,
            seed=study.settings.seed,
            unit=self.unit,
            train_support=self.train_support,
            details=self.details,
            **facts,
        )


def knn(study: Study) -> MapOutcome:
    """Nearest neighbours among token features."""
    train = study.tokens("train")
    bank = Neighbours.fit(train, study.labels.n_classes, study.reading.device)
    matrices = []
    for features, pixels in encode(study.encoder, study.dataset("test"), study.labels, study.reading, "kNN"):
        side = token_pixels(pixels, features.patch)
        truth = majority(pixels, side, study.labels.n_classes, study.labels.ignore)
        votes = bank.votes(features.patch.movedim(1, -1).flatten(0, 2))
        matrices.append(confusion(votes.argmax(1).view(truth.shape), truth, study.labels.n_classes, -1))
    details = {"k": bank.k, "temperature": TEMPERATURE, "train_tokens": len(train.labels)}
    return MapOutcome(torch.cat(matrices).numpy(), "token", details, support(train, study.labels))


def linear(study: Study) -> MapOutcome:
    """A linear layer per token of patches or of sub-patches, bilinear upsampling of its logits."""
    train = study.tokens("train")
    val = study.tokens("validation") if study.split.validation else None
    probe = linear_probe.fit(train, val, study.labels.n_classes)
    matrices = []
    for features, pixels in encode(study.encoder, study.dataset("test"), study.labels, study.reading, "linear probe"):
        maps = token_maps(features, study.settings.features)
        logits = probe.logits(maps.movedim(1, -1)).movedim(-1, 1)
        prediction = to_pixels(logits, token_pixels(pixels, maps)).argmax(1)
        matrices.append(confusion(prediction, pixels, study.labels.n_classes, study.labels.ignore))
    details = probe.details() | {"train_tokens": len(train.labels), "features": study.settings.features}
    if study.settings.features == "dense":
        details["dense"] = study.encoder.config_dict()["dense"]
    return MapOutcome(torch.cat(matrices).numpy(), "pixel", details, support(train, study.labels))


def finetuned(study: Study) -> MapOutcome:
    """The bundle's own head."""
    assert study.bundle is not None
    model = SegmentationModel.from_bundle(study.bundle, str(study.settings.bundle)).to(study.reading.device).eval()
    check_classes(study, model.task)
    task = replace(model.task, label=study.labels.name, ignore=study.labels.ignore)
    reader = batches(study.dataset("test"), study.reading, "evaluate")
    with torch.inference_mode():
        matrices = patch_matrices(lambda batch: model(batch).argmax(1), reader, task)
    return MapOutcome(matrices.numpy(), "pixel", {"head": model.task.head})


def forest(study: Study) -> MapOutcome:
    """A random forest on raw pixel series."""
    grid, train = _grid(study), study.dataset("train")
    pixels = _pixels(study, train, grid, "series to learn from")
    fitted = Forest.fit(pixels, study.labels.n_classes, study.settings.seed)
    details = {"trees": TREES, "columns": fitted.columns}
    return _judge_pixels(study, pixels, details, lambda one, shape: fitted.predict(one, grid, shape), "random forest")


def raw_linear(study: Study) -> MapOutcome:
    """A linear layer on raw pixel series: what a probe of an encoder has to beat."""
    grid, train = _grid(study), study.dataset("train")
    pixels = _pixels(study, train, grid, "series to learn from")
    val = None
    if study.split.validation:
        val = _pixels(study, study.dataset("validation"), grid, "series to choose a penalty on")
    probe = linear_probe.fit(pixels, val, study.labels.n_classes)

    def predict(sample: Sample, shape: tuple[int, int]) -> Tensor:
        series = raw_series.columns(sample, grid, np.arange(shape[0] * shape[1]))
        return probe.logits(torch.from_numpy(series)).argmax(1).view(shape)

    details = probe.details() | {"columns": pixels.features.shape[1]}
    return _judge_pixels(study, pixels, details, predict, "linear probe of raw series")


def _grid(study: Study) -> raw_series.Grid:
    """The days that span the training samples."""
    names, train = study.preprocessing.inputs, study.dataset("train")
    return raw_series.common_grid([study.store.days(name, one) for name in names] for one in train.indices)


def _pixels(study: Study, dataset: Any, grid: raw_series.Grid, what: str) -> Tokens:
    settings = study.settings
    return raw_series.gather_pixels(
        dataset, study.labels, grid, what, most=settings.max_tokens, seed=settings.seed, quiet=settings.quiet
    )


def _judge_pixels(
    study: Study,
    train: Tokens,
    details: dict[str, Any],
    predict: Callable[[Sample, tuple[int, int]], Tensor],
    what: str,
) -> MapOutcome:
    """What `predict` says of the pixels of each test sample, of its series and its shape (H, W)."""
    labels, matrices = study.labels, []
    for sample in raw_series.shown(study.dataset("test"), what, study.settings.quiet):
        truth = raw_series.same_grid(sample, labels)
        prediction = predict(sample, (truth.shape[0], truth.shape[1]))
        matrices.append(confusion(prediction[None], truth[None], labels.n_classes, labels.ignore))
    facts = {"modalities": list(study.preprocessing.inputs), "train_pixels": len(train.labels)}
    return MapOutcome(torch.cat(matrices).numpy(), "pixel", details | facts, support(train, labels))


MAP_PROTOCOLS: dict[str, Callable[[Study], MapOutcome]] = {
    "knn": knn,
    "linear": linear,
    "finetuned": finetuned,
    "random-forest": forest,
    "raw-linear": raw_linear,
}
