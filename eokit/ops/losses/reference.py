"""The contrastive losses in plain torch, with every logit in memory: what the streamed ones are held to."""

from __future__ import annotations

import torch
from torch import Tensor


def info_nce(a: Tensor, b: Tensor, positives: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows with positives of: log sum_j exp(s_ij) - mean over positives j of s_ij, s = a b^T / temperature.

    a: (N, D), b: (M, D), positives: (N, M) bool. Returns a scalar, 0 if no row has positives.
    """
    scores = a @ b.T / temperature
    count = positives.sum(1)
    rows = scores.logsumexp(1) - torch.where(positives, scores, 0.0).sum(1) / count.clamp(min=1)
    return _mean(rows, count > 0)


def mil_nce(a: Tensor, group: Tensor, block: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows with positives of: log sum over candidates of exp(s_ij) - log sum over positives of exp(s_ij).

    a: (N, D); s = a a^T / temperature. Candidates of row i: all j with block[j] != block[i]; positives: candidates with
    group[j] == group[i]. Returns a scalar, 0 if no row has positives.
    """
    candidates = block[:, None] != block
    positives = candidates & (group[:, None] == group)
    used = positives.any(1)
    scores, unused = a @ a.T / temperature, ~used[:, None]
    # A row without positives compares with everything and is then dropped: its gradient is 0, not NaN.
    every, near = (scores.masked_fill(~(some | unused), float("-inf")).logsumexp(1) for some in (candidates, positives))
    return _mean(every - near, used)


def dino_cross_entropy(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    *,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Mean over rows of -sum_k p_k log softmax(s / temperature)_k, p = softmax((t - center) / teacher_temperature).

    student, teacher: features (N, D) and (N, E); prototypes: (K, D), teacher_prototypes: (K, E); the logits s and t are
    features prototypes^T. center: (K,). The teacher gets no gradient. Returns a scalar.
    """
    logits = student @ prototypes.T / temperature
    with torch.no_grad():
        targets = ((teacher @ teacher_prototypes.T - center) / teacher_temperature).softmax(1)
    return -(targets * logits.log_softmax(1)).sum() / max(len(student), 1)


def _mean(rows: Tensor, used: Tensor) -> Tensor:
    return torch.where(used, rows, 0.0).sum() / used.sum().clamp(min=1)
