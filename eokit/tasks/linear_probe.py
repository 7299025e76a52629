"""A linear probe: one linear layer on fixed features, of tokens or of whole samples, by logistic regression.

Features are standardised with the training vectors' mean and deviation. The strength of the L2 penalty is chosen on the
validation vectors, by their mIoU, or by macro mAP where a vector has several classes; without any it is `L2_DEFAULT`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.errors import DataError
from eokit.tasks.features import Tokens
from eokit.tasks.metrics import confusion, summarise
from eokit.tasks.multilabel import summarise_multilabel

NEVER = -1e4
"""The logit of a class that must not be predicted: its exp is 0 in every dtype, and unlike -inf it can be averaged."""
L2 = (1e-2, 1e-3, 1e-4, 1e-5)
"""Penalties tried, per token: the loss is the mean cross-entropy + L2 / 2 x the squared norm of the weights."""
L2_DEFAULT = 1e-4
ITERATIONS = 200
"""Most steps of the solver for one penalty; each starts where the stronger penalty ended."""

MORE = "train on more samples or on other folds (--limit, --train-folds)"
"""The way out where the labels say nothing to learn."""


@dataclass(frozen=True)
class LinearProbe:
    """weight: (K, D), bias: (K,), on raw features; classes without a training token can never be predicted."""

    weight: Tensor
    bias: Tensor
    l2: float
    chosen_on: str

    def logits(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return features.float() @ self.weight.T.to(features.device) + self.bias.to(features.device)

    def details(self) -> dict[str, Any]:
        """How it was chosen, for a report."""
        return {"l2": self.l2, "l2_chosen_on": self.chosen_on}


def fit(train: Tokens, val: Tokens | None, n_classes: int) -> LinearProbe:
    """The probe of the penalty that does best on `val`, or of `L2_DEFAULT` where there is no val."""
    path = L2 if val is not None else (L2_DEFAULT,)
    chosen_on = "validation folds" if val is not None else "default, no validation fold"
    several = train.labels.ndim == 2
    fitted = along_multilabel(train, path, chosen_on) if several else along(train, path, n_classes, chosen_on)
    best, best_score = None, -1.0
    for probe in fitted:
        score = 0.0 if val is None else _macro_map(probe, val) if several else _miou(probe, val, n_classes)
        if score > best_score:
            best, best_score = probe, score
    assert best is not None
    return best


def along(train: Tokens, path: tuple[float, ...], n_classes: int, chosen_on: str) -> Iterator[LinearProbe]:
    """One fitted probe per penalty, strongest first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = train.features.numpy().astype(np.float64), train.labels.numpy()
    there = np.unique(y)
    if len(there) < 2:
        raise DataError(f"all training labels are of class {there.tolist()[0]}, expected two classes or more; {MORE}")
    x, mean, std = _standardised(x)
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-4, warm_start=True)
    for l2 in path:
        model.C = 1 / (l2 * len(x))  # scikit-learn sums the loss over tokens
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        slopes, offsets = model.coef_, model.intercept_
        if len(there) == 2:  # one row, for the second class
            slopes, offsets = np.concatenate([0 * slopes, slopes]), np.append(0 * offsets, offsets)
        weight, bias = np.zeros((n_classes, x.shape[1])), np.full(n_classes, NEVER)
        weight[there], bias[there] = slopes / std, offsets - (slopes / std) @ mean
        yield LinearProbe(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), l2, chosen_on)


def along_multilabel(train: Tokens, path: tuple[float, ...], chosen_on: str) -> Iterator[LinearProbe]:
    """One fitted probe per penalty, strongest first: one class against the rest, all of them at once.

    Labels are (n, K). The classes share nothing but the penalty. One that every vector has, or none, gets its log odds
    for a bias and no weights.
    """
    x, mean, std = _standardised(train.features.numpy().astype(np.float64))
    truth = train.labels.double()
    varied = (truth.mean(0) > 0) & (truth.mean(0) < 1)
    if not varied.any():
        raise DataError(
            f"all {len(truth)} training samples have the same classes, expected one that some have and others lack;"
            f" {MORE}"
        )
    features, truth_varied = torch.from_numpy(x), truth[:, varied]
    slopes = torch.zeros(int(varied.sum()), x.shape[1], dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(len(slopes), dtype=torch.float64, requires_grad=True)
    for l2 in path:
        _descend(features, truth_varied, slopes, offsets, l2)
        weight, bias = np.zeros((truth.shape[1], x.shape[1])), _log_odds(truth).numpy()
        on_raw = slopes.detach().numpy() / std
        weight[varied.numpy()], bias[varied.numpy()] = on_raw, offsets.detach().numpy() - on_raw @ mean
        yield LinearProbe(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), l2, chosen_on)


def _descend(features: Tensor, truth: Tensor, slopes: Tensor, offsets: Tensor, l2: float) -> None:
    """Move slopes (K, D) and offsets (K,) to the least penalised binary cross-entropy of each class, in place."""
    solver = torch.optim.LBFGS(
        [slopes, offsets], max_iter=ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = features @ slopes.T + offsets
        terms = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        total = terms.mean(0).sum() + l2 / 2 * slopes.square().sum()
        total.backward()
        return total

    with torch.enable_grad():  # a head starts from a probe where gradients are off
        solver.step(loss)


def _standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, D) with mean 0 and deviation 1, and that mean and deviation (D,); one that never moves stays 0."""
    mean, std = x.mean(0), x.std(0)
    std[std < 1e-8] = 1.0
    return (x - mean) / std, mean, std


def _log_odds(truth: Tensor) -> Tensor:
    """(K,) of how often classes occur in (n, K); finite for those that always or never do."""
    there = truth.sum(0)
    return torch.log((there + 0.5) / (len(truth) - there + 0.5))


def _macro_map(probe: LinearProbe, tokens: Tokens) -> float:
    shares, once = probe.logits(tokens.features).sigmoid().numpy(), np.ones((1, len(tokens.labels)))
    return float(summarise_multilabel(shares, tokens.labels.numpy(), once)["macro_map"][0])


def _miou(probe: LinearProbe, tokens: Tokens, n_classes: int) -> float:
    prediction = probe.logits(tokens.features).argmax(-1)
    return float(summarise(confusion(prediction[None], tokens.labels[None], n_classes, None)[0].numpy(), None)["miou"])
