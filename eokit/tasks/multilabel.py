"""Scores of labels of which a sample has any number: average precision and F1, for all resamples at once.

A class is predicted where its score is above `THRESHOLD`. Means over classes ("macro", "weighted") go over the classes
that occur in the truth: a class that no sample has has no average precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eokit.errors import ArgumentError, DataError
from eokit.tasks.metrics import ratios_of

MULTILABEL_SUMMARY = ("macro_map", "macro_f1", "micro_f1", "weighted_f1")
"""macro_map: mean average precision. weighted_f1: classes weigh by the samples that have them. Each in 0..1."""
THRESHOLD = 0.5


def average_precision(scores: np.ndarray, truth: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Area under the steps of precision over recall, one class: scores (n,), truth (n,) of 0 and 1 -> (R,).

    times: (R, n), how often each sample counts. Samples of one score enter together; NaN: the class does not occur.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last sample of each score
    times = times[:, order].astype(np.float64)
    hits = np.cumsum(times * truth[order], axis=1)[:, ends]
    found = np.cumsum(times, axis=1)[:, ends]
    precision = np.divide(hits, found, out=np.zeros_like(hits), where=found > 0)
    gained = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where the class does not occur
        return (gained * precision).sum(1) / hits[:, -1]


def summarise_multilabel(scores: np.ndarray, truth: np.ndarray, times: np.ndarray) -> dict[str, np.ndarray]:
    """The scores named in `MULTILABEL_SUMMARY`, each (R,): scores (n, K) in 0..1, truth (n, K), times (R, n)."""
    _check(scores, truth)
    precisions = np.stack([average_precision(*one, times) for one in zip(scores.T, truth.T, strict=True)], axis=1)
    ratios = ratios_of(*_counts(scores, truth, times))
    occurs = ratios["support"] > 0
    share = ratios["support"] / np.maximum(ratios["support"].sum(1, keepdims=True), 1)
    n_occurs = np.maximum(occurs.sum(1), 1)
    hit, support, predicted = (ratios[name].sum(1) for name in ("hit", "support", "predicted"))
    return {
        "macro_map": np.where(occurs, precisions, 0).sum(1) / n_occurs,
        "macro_f1": (ratios["f1"] * occurs).sum(1) / n_occurs,
        "micro_f1": 2 * hit / np.maximum(support + predicted, 1),
        "weighted_f1": (ratios["f1"] * share).sum(1),
    }


def multilabel_scores(scores: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Summary scores of (n, K), `n_classes_scored`, and `per_class`: a row per class."""
    once = np.ones((1, len(truth)))
    if not truth.any():
        raise DataError("no sample of these folds has any class: nothing to score")
    summary = {name: float(value[0]) for name, value in summarise_multilabel(scores, truth, once).items()}
    ratios = {name: value[0] for name, value in ratios_of(*_counts(scores, truth, once)).items()}
    rows = [
        {"id": k, "name": name, "ap": float(average_precision(scores[:, k], truth[:, k], once)[0])}
        | {key: float(ratios[key][k]) for key in ("f1", "precision", "recall")}
        | {"support": int(ratios["support"][k]), "predicted": int(ratios["predicted"][k])}
        for k, name in enumerate(classes)
    ]
    for row in rows:
        row["ap"] = None if not row["support"] else row["ap"]
    return summary | {"n_classes_scored": int((ratios["support"] > 0).sum()), "per_class": rows}


def _check(scores: np.ndarray, truth: np.ndarray) -> None:
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ArgumentError(f"scores have shape {scores.shape}, truth {truth.shape}; expected (n, K) both")
    if len(truth) and not np.isin(truth, (0, 1)).all():
        raise DataError(f"multilabel labels hold {truth.min()}..{truth.max()}, expected 0 or 1")


def _counts(scores: np.ndarray, truth: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(R, K) each: samples that have a class and are told so, that have it, that are told to."""
    told, there, often = (scores > THRESHOLD).astype(np.float64), truth.astype(np.float64), times.astype(np.float64)
    return often @ (told * there), often @ there, often @ told
