"""Attention in plain torch: the readable truth that every backend is held to, in any floating dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over the keys that `key_mask` allows; 0 where it allows none.

    q: (..., Lq, H, D). k, v: (..., Lk, H, D). key_mask: bool, broadcastable to (..., Lk). bias: broadcastable to
    (..., H, Lq, Lk). Half precision is computed in float32. Returns (..., Lq, H, D) in the dtype of q.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    queries, keys, values = (x.transpose(-3, -2).to(wide) for x in (q, k, v))  # (..., H, L, D)
    scores = queries @ keys.transpose(-2, -1) * scale  # (..., H, Lq, Lk)
    if bias is not None:
        scores = scores + bias.to(wide)
    if key_mask is None:
        weights = scores.softmax(dim=-1)
    else:
        keep = key_mask[..., None, None, :]  # (..., 1, 1, Lk)
        some = keep.any(dim=-1, keepdim=True)
        # A row without keys attends to all of them and is then dropped: its gradient is 0, not NaN.
        weights = scores.masked_fill(~keep & some, float("-inf")).softmax(dim=-1) * some
    return (weights @ values).transpose(-3, -2).to(q.dtype)
