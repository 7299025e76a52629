"""Inputs of the ops on tokens, series and rows, and the law for their results, for tests with and without a GPU.

Imports nothing but torch and eokit.ops: machines with a GPU need not have more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from eokit.ops import gather_tokens, row_mlp, scatter_tokens, temporal_pool, use_backend


def assert_as_exact_as(ours: Sequence[Tensor], theirs: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """The largest error of each result against float64 is at most twice that of plain torch, and some roundings.

    One of the result in its dtype, and four of float32, in which sums are taken in another order.
    """
    for number, (a, b, truth) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert a.isfinite().all(), f"result {number}"
        error, own = ((one.double() - truth).abs().max() for one in (a, b))
        rounding = torch.finfo(b.dtype).eps + 4 * torch.finfo(torch.float32).eps
        limit = 2 * own + rounding * truth.abs().max()
        assert error <= limit, f"result {number}: error {error:.3g}, limit {limit:.3g}"


def choose(batch: int, length: int, count: int) -> Tensor:
    """`count` different tokens of `length` for every sample, (batch, count)."""
    if not batch:
        return torch.empty(0, count).long()
    return torch.stack([torch.randperm(length)[:count] for _ in range(batch)])


def make_tokens(batch: int, length: int, count: int, dim: int, own: bool | None) -> tuple[list[Tensor], Tensor]:
    """([x, visible, mask_token, pos], index); pos is left out with own=None, of every sample its own with True."""
    shape = {None: None, False: (length, dim), True: (batch, length, dim)}[own]
    shapes = [(batch, length, dim), (batch, count, dim), (dim,)] + ([] if shape is None else [shape])
    return [torch.randn(one) for one in shapes], choose(batch, length, count)


def run_tokens(backend: str | None, dtype: torch.dtype, leaves: Sequence[Tensor], index: Tensor) -> tuple[Tensor, ...]:
    """Gathered, scattered, and the gradients of the sum of their squares."""
    leaves = [one.to(dtype).requires_grad_() for one in leaves]
    x, visible, mask_token, *pos = leaves
    with use_backend(backend):
        gathered = gather_tokens(x, index, *pos)
        scattered = scatter_tokens(visible, index, x.shape[1], mask_token, *pos)
        wide = torch.promote_types(dtype, torch.float32)
        loss = gathered.to(wide).square().sum() + scattered.to(wide).square().sum()
        return gathered, scattered, *torch.autograd.grad(loss, leaves)


def make_series(samples, pixels, dates, heads, values, dtype=torch.float64, mask=None):
    """x (S, N, T, D), queries (H, D), positions (S, T, D / H), key_mask."""
    x = torch.randn(samples, pixels, dates, heads * values, dtype=dtype)
    queries = torch.randn(heads, heads * values, dtype=dtype) / math.sqrt(heads * values)
    positions = torch.randn(samples, dates, values, dtype=dtype)
    shape = {None: None, "dates": (samples, 1, dates), "pixels": (samples, pixels, dates)}[mask]
    key_mask = None if shape is None else torch.rand(shape) > 0.4
    if mask == "pixels":
        key_mask[0, 0] = False
    return x, queries, positions, key_mask


def run_pool(backend, dtype, given_, grad):
    """The pooled series and the gradients of x and queries."""
    x, queries, positions, key_mask = given_
    x, queries = (one.to(dtype).requires_grad_() for one in (x, queries))
    with use_backend(backend):
        out = temporal_pool(x, queries, positions.to(dtype), key_mask=key_mask)
    return out, *torch.autograd.grad(out, (x, queries), grad.to(dtype))


def make_rows(rows, widths, dtype=torch.float64):
    """x (R, C), and layers of (weight, bias, gain, shift)."""
    layers = []
    for inputs, outputs in pairwise(widths):
        layers.append([torch.randn(outputs, inputs) / inputs**0.5, *torch.randn(3, outputs)])
    return torch.randn(rows, widths[0]).to(dtype), [[one.to(dtype) for one in layer] for layer in layers]


def run_mlp(backend, dtype, case, groups, grad):
    """The rows behind all layers and the gradients of x and of every layer."""
    x, layers = case
    x = x.to(dtype).requires_grad_()
    layers = [[one.to(dtype).requires_grad_() for one in layer] for layer in layers]
    with use_backend(backend):
        out = row_mlp(x, layers, groups=groups)
    return out, *torch.autograd.grad(out, [x, *(one for layer in layers for one in layer)], grad.to(dtype))
