"""Losses of the pretraining recipes, and the figures that tell a collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from eokit.nn.reduce import global_mean

RANK_ROWS = 2048
"""At most so many rows enter the effective rank: it costs rows x D^2, and it is a gauge, not a result."""


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean smooth-L1 distance of rows, each a mean over channels, as one process would compute it: ().

    prediction, target: (K, D), K may differ between processes and may be 0 (the loss is then 0).
    """
    rows = F.smooth_l1_loss(prediction.float(), target.float(), reduction="none").mean(-1)
    return global_mean(rows.sum(), torch.tensor(float(len(rows)), device=rows.device))


def feature_std(features: Tensor) -> Tensor:
    """How far rows differ: standard deviation over the rows (K, D) of each channel, averaged over channels: ().

    The rows are layer-normed first, so that their length does not count: near 1 when healthy, 0 when collapsed.
    """
    rows = F.layer_norm(features.float(), features.shape[-1:])
    return rows.std(0, correction=0).mean() if len(rows) else rows.new_zeros(())


def effective_rank(features: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of (K, D): from 1 (collapsed) to min(K, D): ().

    Roy and Vetterli, "The effective rank", EUSIPCO 2007. Uses at most 2,048 rows, evenly spaced. Zero rows give 1,
    rows that are not finite NaN.
    """
    rows = features[:: max(1, -(-len(features) // RANK_ROWS))].double()
    gram = rows.T @ rows if len(rows) >= rows.shape[1] else rows @ rows.T
    if not gram.isfinite().all():  # eigvalsh would raise
        return gram.new_full((), torch.nan)
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
    return torch.special.entr(share).sum().exp()
