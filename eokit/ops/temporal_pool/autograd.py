"""What torch must know of `eokit::pool_*` beyond their kernels: shapes, gradients, the plain fallback."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.wiring import refuse_second_derivative


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
refuse_second_derivative("pool_backward", "temporal_pool")


def _scores(x: Tensor, queries: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """x: (S, N, T, D) -> (S, N, T, H), -inf under the mask."""
    scores = x @ queries.T + bias[:, None]
    return scores if mask is None else scores.masked_fill(~mask.view(*x.shape[:3])[..., None], float("-inf"))


def _values(x: Tensor, positions: Tensor, heads: int) -> Tensor:
    """(S, N, T, H, D / H)."""
    return x.unflatten(-1, (heads, -1)) + positions[:, None, :, None]


def _reference_forward(
    x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide = x.unflatten(0, (len(bias), -1)).float()
    scores = _scores(wide, queries, bias, mask)
    lse = scores.logsumexp(2, keepdim=True)
    lse = lse.masked_fill(lse == float("-inf"), float("inf"))  # as the kernels store it: exp(s - lse) is then 0
    out = ((scores - lse).exp()[..., None] * _values(wide, positions, len(queries))).sum(2)
    return out.flatten(-2).flatten(0, 1).to(x.dtype), lse.flatten(0, 2).contiguous()


def _reference_backward(
    grad_out: Tensor, x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    heads = len(queries)
    wide = x.unflatten(0, (len(bias), -1)).float()  # (S, N, T, D)
    grad = grad_out.float().view(*wide.shape[:2], 1, heads, -1)
    weights = (_scores(wide, queries, bias, mask) - lse.view(*wide.shape[:2], 1, heads)).exp()  # a, (S, N, T, H)
    slopes = (grad * _values(wide, positions, heads)).sum(-1)  # da
    slopes = weights * (slopes - (weights * slopes).sum(2, keepdim=True))  # ds
    grad_x = slopes @ queries + (weights[..., None] * grad).flatten(-2)
    grad_queries = slopes.flatten(0, 2).T @ wide.flatten(0, 2)
    return grad_x.flatten(0, 1).to(x.dtype), grad_queries, slopes.sum(1)


WIDEST, WIDEST_BACKWARD_HALF, MOST_HEADS = 512, 128, 16
"""Features of a pixel that the Triton kernels hold in registers, and that the backward one does in half precision, and
heads: every head sums all columns, and 32 of them need 2.5 to 6.3 kB of stack a thread from 256 features on.
"""


def _takes_triton(x: Tensor, queries: Tensor, *_: Any) -> bool:
    """x: (P, T, D). queries: (H, D)."""
    return library.takes_triton(x) and x.shape[-1] <= WIDEST and len(queries) <= MOST_HEADS


def _takes_triton_back(grad_out: Tensor, x: Tensor, queries: Tensor, *_: Any) -> bool:
    return _takes_triton(x, queries) and (x.element_size() == 4 or x.shape[-1] <= WIDEST_BACKWARD_HALF)


library.register("pool_forward", _reference_forward, "eokit.ops.temporal_pool.triton", _takes_triton)
library.register("pool_backward", _reference_backward, "eokit.ops.temporal_pool.triton", _takes_triton_back)
