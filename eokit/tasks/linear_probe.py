"""A linear probe: one linear layer per token on fixed features, by logistic regression.

Features are standardised with the training tokens' mean and deviation. The strength of the L2 penalty is chosen on the
validation tokens, by mIoU over tokens; without validation folds it is `L2_DEFAULT`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eokit.errors import DataError
from eokit.tasks.features import Tokens
from eokit.tasks.metrics import confusion, summarise

NEVER = -1e4
"""The logit of a class that must not be predicted: its exp is 0 in every dtype, and unlike -inf it can be averaged."""
L2 = (1e-2, 1e-3, 1e-4, 1e-5)
"""Penalties tried, per token: the loss is the mean cross-entropy + L2 / 2 x the squared norm of the weights."""
L2_DEFAULT = 1e-4
ITERATIONS = 200
"""Most steps of the solver for one penalty; each starts where the stronger penalty ended."""


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


def fit(train: Tokens, val: Tokens | None, n_classes: int) -> LinearProbe:
    """The probe of the penalty that does best on `val`, or of `L2_DEFAULT` where there is no val."""
    path = L2 if val is not None else (L2_DEFAULT,)
    best, best_score = None, -1.0
    for probe in along(
        train, path, n_classes, "validation folds" if val is not None else "default, no validation fold"
    ):
        score = 0.0 if val is None else _miou(probe, val, n_classes)
        if score > best_score:
            best, best_score = probe, score
    assert best is not None
    return best


def along(train: Tokens, path: tuple[float, ...], n_classes: int, chosen_on: str):
    """One fitted probe per penalty, strongest first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = train.features.numpy().astype(np.float64), train.labels.numpy()
    there = np.unique(y)
    if len(there) < 2:
        raise DataError(f"the training tokens hold a single class (id {there.tolist()}); a probe needs at least two")
    mean, std = x.mean(0), x.std(0)
    std[std < 1e-8] = 1.0  # a feature that never moves stays 0
    x = (x - mean) / std
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


def _miou(probe: LinearProbe, tokens: Tokens, n_classes: int) -> float:
    prediction = probe.logits(tokens.features).argmax(-1)
    return float(summarise(confusion(prediction[None], tokens.labels[None], n_classes, None)[0].numpy(), None)["miou"])
