"""Inputs, and the comparison with the float64 reference, that all attention tests share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eokit.ops import attention

NAMES = ("out", "grad_q", "grad_k", "grad_v", "grad_bias")


@dataclass
class Case:
    """Float64 values on temporal views (B, N, L, H, D) of (B, L, N, H, D), and the gradient that comes back."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    key_mask: Tensor | None = None
    bias: Tensor | None = None

    def run(self, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
        """Output and gradients by name."""
        given = [self.q, self.k, self.v] + ([] if self.bias is None else [self.bias])
        q, k, v, *bias = leaves = [_like(x, dtype).requires_grad_() for x in given]
        out = attention(q, k, v, key_mask=self.key_mask, bias=bias[0] if bias else None, backend=backend)
        grads = torch.autograd.grad(out, leaves, self.grad.to(dtype))
        return dict(zip(NAMES, (out.detach(), *grads), strict=False))


def make_case(queries: int, keys: int, dim: int, mask: str | None = None, seed: int = 0, bias: bool = False) -> Case:
    """2 x 2 sequences of 2 heads; the mask of the first sample keeps nothing at all, positions share the bias."""
    torch.manual_seed(seed)
    q, k, v, grad = (
        torch.randn(2, length, 2, 2, dim, dtype=torch.float64).transpose(1, 2)
        for length in (queries, keys, keys, queries)
    )
    shared = torch.randn(2, 1, 2, queries, keys, dtype=torch.float64) if bias else None
    return Case(q, k, v, grad, make_mask(mask, keys), shared)


def make_mask(kind: str | None, keys: int) -> Tensor | None:
    """(2, 1, keys) prefixes of 0 and about half of the keys, or (2, 2, keys) with holes and one empty sequence."""
    if kind is None:
        return None
    if kind == "prefix":
        return (torch.arange(keys) < torch.tensor([0, (keys + 1) // 2])[:, None])[:, None]
    mask = torch.rand(2, 2, keys) > 0.4
    mask[0, 1] = False
    return mask


def assert_as_exact_as_torch(case: Case, backend: str | None = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """The error against float64 is at most twice that of SDPA on the same values in the same dtype.

    Granted on top, for where SDPA happens to be exact, are a float32 rounding of the largest partial sum, sums of `dim`
    products of unit normal numbers reaching about 4 sqrt(dim), and a rounding of the largest result to the dtype.
    """
    exact = case.run("reference", torch.float64)
    ours, theirs = case.run(backend, dtype), case.run("sdpa", dtype)
    sums = torch.finfo(torch.float32).eps * 4 * math.sqrt(case.q.shape[-1])
    for name in exact:
        error = (ours[name] - exact[name]).abs().max()
        rounding = torch.finfo(dtype).eps * exact[name].abs().max()
        limit = 2 * (theirs[name] - exact[name]).abs().max() + sums + rounding
        assert error <= limit, f"{name}: error {error:.3g}, limit {limit:.3g}"


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A detached copy with the strides of x."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x)
