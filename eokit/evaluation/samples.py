"""Protocols for labels of whole samples; each tells a share of every class of every test sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.evaluation import raw_series
from eokit.evaluation.knn import TEMPERATURE, Neighbours
from eokit.evaluation.random_forest import TREES, Forest
from eokit.evaluation.report import BaseReport, MultilabelReport, Report
from eokit.evaluation.study import READ_FOR, Study, check_classes, support
from eokit.tasks import linear_probe
from eokit.tasks.classification import ClassificationModel, as_shares, collect, predict_all
from eokit.tasks.features import Tokens, encode, gather_tiles
from eokit.tasks.inputs import batches, thin_out
from eokit.tasks.linear_probe import LinearProbe
from eokit.tasks.metrics import confusion


@dataclass(frozen=True)
class SampleOutcome:
    """shares: (n, K), what is said of each sample. truth: (n,) or (n, K). train_support: (K,) samples learned from."""

    shares: Tensor
    truth: Tensor
    details: dict[str, Any]
    train_support: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def report(self, study: Study, **facts: Any) -> BaseReport:
        """The report, with facts that no protocol changes."""
        facts |= {"train_support": self.train_support, "details": self.details, "seed": study.settings.seed}
        if study.layer.multilabel:
            return MultilabelReport.from_samples(self.shares.numpy(), self.truth.numpy(), **facts)
        labels = study.labels
        matrix = confusion(self.shares.argmax(1)[None], self.truth[None], labels.n_classes, labels.ignore)[0]
        return Report.from_samples(matrix.numpy(), ignore=labels.ignore, **facts)


def knn(study: Study) -> SampleOutcome:
    """Nearest neighbours among the vectors of samples."""
    train = _tiles(study, "train")
    bank = Neighbours.fit(train, study.labels.n_classes, study.reading.device)
    details = {"k": bank.k, "temperature": TEMPERATURE, "train_samples": len(train.labels)}
    return _judge(study, _encoded(study, bank.shares, "kNN"), details, train)


def linear(study: Study) -> SampleOutcome:
    """A linear layer on the vectors of samples, where several classes each against the rest."""
    train, val = _tiles(study, "train"), _tiles(study, "validation") if study.split.validation else None
    probe = linear_probe.fit(train, val, study.labels.n_classes)
    details = probe.details() | {"train_samples": len(train.labels)}
    return _judge(study, _encoded(study, _shares_of(study, probe), "linear probe"), details, train)


def finetuned(study: Study) -> SampleOutcome:
    """The bundle's own head."""
    assert study.bundle is not None
    model = ClassificationModel.from_bundle(study.bundle, str(study.settings.bundle)).to(study.reading.device).eval()
    check_classes(study, model.task)
    task = replace(model.task, label=study.labels.name, ignore=study.labels.ignore)
    with torch.inference_mode():
        shares, truth = predict_all(model.shares, batches(study.dataset("test"), study.reading, "evaluate"), task)
    return SampleOutcome(shares, truth, {"head": task.head})


def forest(study: Study) -> SampleOutcome:
    """A random forest on mean and deviation of each band."""
    train = _moments(study, "train", "series to learn from")
    fitted = Forest.fit(train, study.labels.n_classes, study.settings.seed)
    return _judge_moments(study, train, {"trees": TREES}, fitted.shares, "random forest")


def raw_linear(study: Study) -> SampleOutcome:
    """A linear layer on mean and deviation of each band."""
    train = _moments(study, "train", "series to learn from")
    val = _moments(study, "validation", "series to choose a penalty on") if study.split.validation else None
    probe = linear_probe.fit(train, val, study.labels.n_classes)
    return _judge_moments(study, train, probe.details(), _shares_of(study, probe), "linear probe of raw series")


def _shares_of(study: Study, probe: LinearProbe) -> Callable[[Tensor], Tensor]:
    return lambda features: as_shares(probe.logits(features), several=study.layer.multilabel)


def _tiles(study: Study, part: Any) -> Tokens:
    """The vectors of at most `max_tokens` samples of one part of the split, with their labels."""
    dataset = study.dataset(part)
    dataset.indices = thin_out(dataset.indices, study.settings.max_tokens)
    return gather_tiles(encode(study.encoder, dataset, study.labels, study.reading, READ_FOR[part]), study.labels)


def _encoded(study: Study, score: Callable[[Tensor], Tensor], what: str) -> Iterator[tuple[Tensor, Tensor]]:
    """What `score` makes of the vectors (B, D) of test samples, and their labels, batch by batch."""
    for features, truth in encode(study.encoder, study.dataset("test"), study.labels, study.reading, what):
        yield score(features.tile.float()), truth


def _moments(study: Study, part: Any, what: str) -> Tokens:
    dataset = study.dataset(part)
    if part == "train":
        dataset.indices = thin_out(dataset.indices, study.settings.max_tokens)
    return raw_series.gather_moments(dataset, study.labels, what, study.settings.quiet)


def _judge_moments(
    study: Study, train: Tokens, details: dict[str, Any], score: Callable[[Tensor], Tensor], what: str
) -> SampleOutcome:
    test = _moments(study, "test", what)
    facts = {"columns": train.features.shape[1], "modalities": list(study.preprocessing.inputs)}
    facts |= {"train_samples": len(train.labels)}
    return _judge(study, [(score(test.features), test.labels)], details | facts, train)


def _judge(study: Study, said: Any, details: dict[str, Any], train: Tokens) -> SampleOutcome:
    shares, truth = collect(said, study.labels.name, study.labels.ignore)
    return SampleOutcome(shares, truth, details, support(train, study.labels))


SAMPLE_PROTOCOLS: dict[str, Callable[[Study], SampleOutcome]] = {
    "knn": knn,
    "linear": linear,
    "finetuned": finetuned,
    "random-forest": forest,
    "raw-linear": raw_linear,
}
