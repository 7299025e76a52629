"""Pooling of a time series with a learned query per head: the core of L-TAE."""

from __future__ import annotations

import torch
from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.checks import FLOATING, check_device, check_tensors
from eokit.ops.temporal_pool import autograd, reference  # noqa: F401  (autograd registers the ops)
from eokit.ops.wiring import without_autocast

__all__ = ["temporal_pool"]


def temporal_pool(x: Tensor, queries: Tensor, positions: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """sum_t softmax_t((x_t + p_t) . queries_h) (x_t + p_t)_h for every pixel and head h, (...)_h its slice of features.

    x: (S, N, T, D): S samples of N pixels with T dates, a contiguous last dimension.
    queries: (H, D), the learned query of every head through the transposed key projection and divided by sqrt(d_k); the
        key's bias cancels in the softmax.
    positions: (S, T, D / H), what the dates add to every slice; no gradient. Pixels never get a copy of it: the scores
        take p_t . queries_h, a number a head, and the sums take p_t.
    key_mask: bool, broadcastable to (S, N, T), True = a date that counts. A pixel without any gives 0 and gradient 0.

    Returns (S, N, D) in the dtype of x. Scores and sums are float32 (float64 for float64), within autocast too. On a
    CPU a pixel stays in the cache from the scores to the sum; gradients for x and queries are the same bits for any
    number of threads.

    L-TAE: Garnot & Landrieu 2020 (arXiv 2007.00586); the values are the features themselves. Raises ArgumentError
    naming the wrong argument.
    """
    _check(x, queries, positions, key_mask)
    samples, pixels, dates, dim = x.shape
    mask = None if key_mask is None else key_mask.expand(samples, pixels, dates)
    with without_autocast(x):
        if not (library.runs_kernels(x) and x.numel()):
            return reference.temporal_pool(x, queries, positions, mask)
        queries, positions = queries.float(), positions.float().contiguous()
        folded = queries.unflatten(-1, (len(queries), -1)).sum(1)  # (H, D / H): all slices see the same position
        bias = (positions[:, :, None] * folded).sum(
            -1
        )  # (S, T, H); no product of matrices that autocast would round, back
        mask = None if mask is None else mask.reshape(samples * pixels, dates).contiguous()
        rows = x.reshape(samples * pixels, dates, dim)
        out, _ = torch.ops.eokit.pool_forward(rows, queries.contiguous(), bias.contiguous(), positions, mask)
    return out.view(samples, pixels, dim)


def _check(x: Tensor, queries: Tensor, positions: Tensor, key_mask: Tensor | None) -> None:
    check_tensors(x=x, queries=queries, positions=positions, key_mask=key_mask)
    if x.dim() != 4 or x.dtype not in FLOATING:
        raise ArgumentError(f"x is {x.dtype} {tuple(x.shape)}, expected floating (S, N, T, D)")
    samples, pixels, dates, dim = x.shape
    if x.numel() and dim > 1 and x.stride(-1) != 1:
        raise ArgumentError(f"x has strides {x.stride()}, expected a contiguous last dimension")
    if queries.dim() != 2 or queries.shape[1] != dim or queries.dtype not in FLOATING:
        raise ArgumentError(f"queries is {queries.dtype} {tuple(queries.shape)}, expected floating (H, {dim})")
    if not len(queries) or dim % len(queries):
        raise ArgumentError(f"queries has {len(queries)} heads, expected a divisor of the {dim} features of x")
    expected = (samples, dates, dim // len(queries))
    if positions.shape != expected or positions.dtype not in FLOATING:
        raise ArgumentError(f"positions is {positions.dtype} {tuple(positions.shape)}, expected floating {expected}")
    if positions.requires_grad:
        raise ArgumentError("positions requires a gradient, expected a constant")
    if key_mask is not None:
        if key_mask.dtype != torch.bool:
            raise ArgumentError(f"key_mask is {key_mask.dtype}, expected torch.bool with True where a date counts")
        full = (samples, pixels, dates)
        if key_mask.dim() != 3 or any(n not in (1, m) for n, m in zip(key_mask.shape, full, strict=True)):
            raise ArgumentError(f"key_mask has shape {tuple(key_mask.shape)}, expected one that broadcasts to {full}")
    check_device("x", x, queries=queries, positions=positions, key_mask=key_mask)
