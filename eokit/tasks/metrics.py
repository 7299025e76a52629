"""Scores of a segmentation, all from one summed confusion matrix; used by fine-tuning and by every protocol.

Rows are the truth, columns the prediction. Void (the ignored class) is taken out, row and column; background stays in.
Means over classes ("macro", mIoU) go over the classes that occur in the truth: a class nobody drew has no IoU.
`miou_all` is the same sum over all non-void classes, absent ones counted as 0, as some leaderboards do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.errors import ArgumentError, DataError

SUMMARY = ("miou", "oa", "macro_f1", "macro_precision", "macro_recall", "miou_all")
"""The scores of a whole map, each in 0..1."""


def confusion(prediction: Tensor, truth: Tensor, n_classes: int, ignore: int | None) -> Tensor:
    """One confusion matrix a sample: (B, ...) class ids and (B, ...) truth -> (B, K, K) int64 on the CPU.

    Elements whose truth is `ignore` are left out. A truth outside 0..K-1 is a DataError.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    if prediction.shape != truth.shape:
        raise ArgumentError(
            f"prediction has shape {tuple(prediction.shape)}, truth {tuple(truth.shape)}; expected equal"
        )
    counted = truth if ignore is None else truth[truth != ignore]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < n_classes:
        raise DataError(f"labels hold ids {int(counted.min())}..{int(counted.max())}, expected 0..{n_classes - 1}")
    matrices = [
        multiclass_confusion_matrix(one, true, n_classes, ignore_index=ignore, validate_args=False)
        for one, true in zip(prediction.flatten(1), truth.flatten(1).long(), strict=True)
    ]
    return torch.stack(matrices).cpu() if matrices else torch.zeros(0, n_classes, n_classes, dtype=torch.int64)


def summarise(matrix: np.ndarray, ignore: int | None) -> dict[str, np.ndarray]:
    """The scores named in `SUMMARY` of matrices (..., K, K), each (...); NaN where nothing was labelled."""
    ratios = _ratios(matrix, ignore)
    occurs = ratios["support"] > 0

    def mean(name: str) -> np.ndarray:
        return (ratios[name] * occurs).sum(-1) / occurs.sum(-1)

    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing was labelled
        return {
            "miou": mean("iou"),
            "oa": ratios["hit"].sum(-1) / ratios["support"].sum(-1),
            "macro_f1": mean("f1"),
            "macro_precision": mean("precision"),
            "macro_recall": mean("recall"),
            "miou_all": (ratios["iou"] * occurs).sum(-1) / occurs.shape[-1],
        }


def scores(matrix: np.ndarray | Tensor, classes: Sequence[str], ignore: int | None) -> dict[str, Any]:
    """Summary scores of one matrix (K, K), `n_classes_scored`, and `per_class`: a row per non-void class."""
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)):
        raise ArgumentError(
            f"matrix has shape {matrix.shape}, expected ({len(classes)}, {len(classes)}): {len(classes)} classes"
        )
    ratios = _ratios(matrix, ignore)
    if not ratios["support"].sum():
        raise DataError("no labelled pixel to score: every label of these folds is void")
    names = [name for number, name in enumerate(classes) if number != ignore]
    ids = [number for number in range(len(classes)) if number != ignore]
    per_class = [
        {"id": ids[row], "name": names[row]}
        | {key: float(ratios[key][row]) for key in ("iou", "f1", "precision", "recall")}
        | {"support": int(ratios["support"][row]), "predicted": int(ratios["predicted"][row])}
        for row in range(len(ids))
    ]
    summary = {name: float(value) for name, value in summarise(matrix, ignore).items()}
    return summary | {"n_classes_scored": int((ratios["support"] > 0).sum()), "per_class": per_class}


def _ratios(matrix: np.ndarray, ignore: int | None) -> dict[str, np.ndarray]:
    """`ratios_of` the classes of a confusion matrix, void removed."""
    keep = [number for number in range(matrix.shape[-1]) if number != ignore]
    kept = matrix[..., keep, :][..., keep].astype(np.float64)
    return ratios_of(np.diagonal(kept, axis1=-2, axis2=-1), kept.sum(-1), kept.sum(-2))


def ratios_of(hit: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Per class the counts with iou, precision, recall and f1; 0 where 0 / 0."""

    def over(count: np.ndarray, total: np.ndarray) -> np.ndarray:
        return np.divide(count, total, out=np.zeros_like(total), where=total > 0)

    return {
        "hit": hit,
        "support": support,
        "predicted": predicted,
        "iou": over(hit, support + predicted - hit),
        "precision": over(hit, predicted),
        "recall": over(hit, support),
        "f1": over(2 * hit, support + predicted),
    }
