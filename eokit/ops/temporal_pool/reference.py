"""Temporal pooling in plain torch: what every backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_pool(x: Tensor, queries: Tensor, positions: Tensor, key_mask: Tensor | None) -> Tensor:
    """Every head h attends with queries[h] over the dates of a pixel and averages its own slice of the features.

    x: (S, N, T, D), N pixels of S samples. queries: (H, D). positions: (S, T, D / H), added to every slice, so both to
    keys and to values. key_mask: bool (S, N, T) or None. Half precision is computed in float32. Returns (S, N, D) in
    the dtype of x.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    heads = queries.shape[0]
    features = x.to(wide) + positions.to(wide).repeat(1, 1, heads)[:, None]  # (S, N, T, D)
    scores = features @ queries.to(wide).T  # (S, N, T, H)
    if key_mask is None:
        weights = scores.softmax(2)
    else:
        keep = key_mask[..., None]
        some = keep.any(2, keepdim=True)
        # A pixel without dates attends to all of them and is then dropped: its gradient is 0, not NaN.
        weights = scores.masked_fill(~keep & some, float("-inf")).softmax(2) * some
    values = features.unflatten(-1, (heads, -1))  # (S, N, T, H, D / H)
    return (weights[..., None] * values).sum(2).flatten(-2).to(x.dtype)
