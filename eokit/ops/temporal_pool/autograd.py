"""What torch must know of `eokit::pool_*` beyond their kernels: shapes, gradients, the plain fallback."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eokit.ops import library


@torch.library.register_fake("eokit::pool_forward")
def _fake_forward(
    x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    pixels, _, dim = x.shape
    return x.new_empty(pixels, dim), x.new_empty(pixels, queries.shape[0], dtype=torch.float32)


@torch.library.register_fake("eokit::pool_backward")
def _fake_backward(
    grad_out: Tensor, x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(queries), torch.empty_like(bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(*inputs, lse)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = torch.ops.eokit.pool_backward(grad_out.contiguous(), *ctx.saved_tensors)
    return *grads, None, None


torch.library.register_autograd("eokit::pool_forward", _backward, setup_context=_setup_context)


def _pool(x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The op in plain torch; (P, D) and (P, H)."""
    samples, heads = bias.shape[0], queries.shape[0]
    x = x.unflatten(0, (samples, -1)).float()  # (S, N, T, D)
    scores = x @ queries.T + bias[:, None]  # (S, N, T, H)
    if mask is not None:
        scores = scores.masked_fill(~mask.view(*x.shape[:3])[..., None], float("-inf"))
    lse = scores.logsumexp(2, keepdim=True)
    lse = lse.masked_fill(lse == float("-inf"), float("inf"))  # as the kernels store it: exp(s - lse) is then 0
    values = (x.unflatten(-1, (heads, -1))) + positions[:, None, :, None]
    out = ((scores - lse).exp()[..., None] * values).sum(2)
    return out.flatten(-2).flatten(0, 1), lse.flatten(0, 2)


def _reference_forward(
    x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    out, lse = _pool(x, queries, bias, positions, mask)
    return out.to(x.dtype), lse.contiguous()


def _reference_backward(
    grad_out: Tensor, x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None, lse: Tensor
) -> tuple[Tensor, ...]:
    leaves = x, queries, bias = tuple(one.detach().requires_grad_() for one in (x, queries, bias))
    with torch.enable_grad():
        again = _pool(x, queries, bias, positions, mask)[0]
    grads = torch.autograd.grad(again, leaves, grad_out.float())  # NaN for a pixel without dates
    return tuple(grad.nan_to_num(0.0).to(one.dtype).contiguous() for grad, one in zip(grads, leaves, strict=True))


library.fall_back("pool_forward", _reference_forward)
library.fall_back("pool_backward", _reference_backward)
