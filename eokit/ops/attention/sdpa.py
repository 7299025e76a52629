"""Attention through torch's scaled_dot_product_attention, on views: for dtypes and devices without a kernel of ours."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None, bias: Tensor | None, scale: float) -> Tensor:
    """The contract of `eokit.ops.attention` over SDPA; q: (..., Lq, H, D), k, v: (..., Lk, H, D)."""
    lead, (length, heads, dim) = q.shape[:-3], q.shape[-3:]
    if 0 in q.shape or k.shape[-3] == 0:
        return q * 0 + (k.sum() + v.sum()) * 0  # SDPA refuses some empty shapes; this keeps the graph whole
    split = _fold_point([q, k, v])
    mask, some = _additive_mask(key_mask, bias, q, k.shape[-3])
    if mask is not None:
        mask = mask.expand(*lead, *mask.shape[-3:])
        if mask.shape[-3] == 1 and split < len(lead):
            mask = mask.expand(*lead, heads, *mask.shape[-2:])
        mask = mask.reshape(math.prod(lead[:split]), -1, *mask.shape[-2:])
    q4, k4, v4 = (_fold(x, split) for x in (q, k, v))  # (A, C, L, D), C = trailing leading dimensions * heads
    out = scaled_dot_product_attention(q4, k4, v4, attn_mask=mask, scale=scale)
    out = out.transpose(1, 2).reshape(*lead[:split], length, *lead[split:], heads, dim)
    out = out.movedim(split, -3)
    return out if some is None else out * some


def _fold(x: Tensor, split: int) -> Tensor:
    """(..., L, H, D) -> (A, C, L, D): leading dimensions before `split` in A, the others and the heads in C."""
    lead, (length, _, dim) = x.shape[:-3], x.shape[-3:]
    moved = x.movedim(-3, split)  # (lead[:split], L, lead[split:], H, D)
    return moved.reshape(math.prod(lead[:split]), length, -1, dim).transpose(1, 2)


def _fold_point(tensors: list[Tensor]) -> int:
    """The first split of the leading dimensions at which `_fold` is a view of every tensor; 0-copy if there is one."""
    count = tensors[0].dim() - 3
    for split in range(count, -1, -1):
        if all(is_view(x, range(split)) and is_view(x, [*range(split, count), count + 1]) for x in tensors):
            return split
    return count


def is_view(x: Tensor, dims: list[int] | range) -> bool:
    """True if the dimensions `dims` of x, in this order, can be merged into one without a copy."""
    dims = [d for d in dims if x.shape[d] != 1]
    return all(x.stride(a) == x.stride(b) * x.shape[b] for a, b in pairwise(dims))


def _additive_mask(
    key_mask: Tensor | None, bias: Tensor | None, q: Tensor, keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """The mask for SDPA, at least (1, Lq or 1, Lk), and which sequences have a key: (..., 1, 1, 1) in the dtype of q.

    A sequence without keys attends to all of them and its output is multiplied by 0, so that neither it nor its
    gradient is NaN in any of SDPA's kernels.
    """
    if key_mask is None:
        return (None if bias is None else _at_least_3d(bias).to(q.dtype)), None
    some = key_mask.any(dim=-1, keepdim=True)
    keep = (key_mask | ~some)[..., None, None, :]  # (..., 1, 1, Lk)
    some = some[..., None, None].to(q.dtype)
    if bias is None:
        return keep, some
    return torch.where(keep, bias.to(q.dtype), float("-inf")), some


def _at_least_3d(bias: Tensor) -> Tensor:
    return bias[(None,) * max(0, 3 - bias.dim())]
