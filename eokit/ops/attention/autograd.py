"""What torch must know of `eokit::attention_*` beyond their kernels: shapes and strides, gradients, the plain fallback.

Importing this module registers everything, once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.attention import reference
from eokit.ops.wiring import refuse_second_derivative


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias_t: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    lead, (length, heads, _) = q.shape[:-3], q.shape[-3:]
    return torch.empty_like(q), q.new_empty((*lead, heads, length), dtype=torch.float32)


def _fake_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    bias_t: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    with_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), _grad_bias(q, bias_t, with_bias)


def _grad_bias(q: Tensor, bias_t: Tensor | None, with_bias: bool) -> Tensor:
    return torch.empty_like(bias_t) if with_bias and bias_t is not None else q.new_empty(0, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_mask, bias_t, ctx.scale = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, key_mask, bias_t, out, lse)


def _backward(op: Any, ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """op: the `attention_backward` that belongs to the forward."""
    if grad_out is None:
        return None, None, None, None, None, None
    with_bias = ctx.needs_input_grad[4]
    *grads, grad_bias = op(grad_out, *ctx.saved_tensors, ctx.scale, with_bias)
    return *grads, None, grad_bias if with_bias else None, None


for _kernels in (torch.ops.eokit, torch.ops.eokit_cuda):
    _forward_op, _backward_op = f"{_kernels.name}::attention_forward", f"{_kernels.name}::attention_backward"
    torch.library.register_fake(_forward_op, _fake_forward)
    torch.library.register_fake(_backward_op, _fake_backward)
    torch.library.register_autograd(
        _forward_op, partial(_backward, _kernels.attention_backward), setup_context=_setup_context
    )
    refuse_second_derivative("attention_backward", "attention", _kernels.name)


def _reference_forward(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias_t: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    scores = _scores(q, k, key_mask, bias_t, scale)
    lse = scores.logsumexp(dim=-1) if k.shape[-3] else scores.new_full(scores.shape[:-1], float("-inf"))
    bias = None if bias_t is None else bias_t.transpose(-2, -1)
    out = reference.attention(q, k, v, key_mask=key_mask, bias=bias, scale=scale)
    lse = lse.masked_fill(lse == float("-inf"), float("inf"))  # as the kernels store it: exp(s - lse) is then 0
    return torch.empty_like(q).copy_(out), lse.contiguous()


def _scores(q: Tensor, k: Tensor, key_mask: Tensor | None, bias_t: Tensor | None, scale: float) -> Tensor:
    """(..., H, Lq, Lk), -inf under the mask."""
    scores = _by_heads(q) @ _by_heads(k).transpose(-2, -1) * scale
    if bias_t is not None:
        scores = scores + bias_t.transpose(-2, -1)
    return scores if key_mask is None else scores.masked_fill(~key_mask[..., None, None, :], float("-inf"))


def _by_heads(x: Tensor) -> Tensor:
    """(..., L, H, D) -> (..., H, L, D), at least float32."""
    return x.transpose(-3, -2).to(torch.promote_types(x.dtype, torch.float32))


def _reference_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    bias_t: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    with_bias: bool,
) -> tuple[Tensor, ...]:
    weights = (_scores(q, k, key_mask, bias_t, scale) - lse[..., None]).exp()  # P, (..., H, Lq, Lk)
    grad = _by_heads(grad_out)
    delta = (grad * _by_heads(out)).sum(-1, keepdim=True)
    slopes = weights * (grad @ _by_heads(v).transpose(-2, -1) - delta)  # dS
    grads = (
        slopes @ _by_heads(k) * scale,
        slopes.transpose(-2, -1) @ _by_heads(q) * scale,
        weights.transpose(-2, -1) @ grad,
    )
    stored = [torch.empty_like(x).copy_(one.transpose(-3, -2)) for x, one in zip((q, k, v), grads, strict=True)]
    if not with_bias or bias_t is None:
        return *stored, _grad_bias(q, None, False)
    return *stored, slopes.transpose(-2, -1).sum_to_size(bias_t.shape).contiguous()


WIDEST = 128
"""Features of a head that the kernels for a GPU hold in registers."""
HALF = (torch.bfloat16, torch.float16)
MOST_QUERIES = 4096
"""Of a sequence in the CUDA kernels, whose backward keeps 8 bytes of each in shared memory: these fit into the smallest
that a GPU from sm_80 on has, 99 KiB, at every width (tests/ops/emulate_cuda.cpp)."""


def takes_triton(q: Tensor, *_: Any) -> bool:
    """Whether the Triton kernels are there and take heads like those of q (..., L, H, D)."""
    return library.takes_triton(q) and q.shape[-1] <= WIDEST


def takes_cuda(q: Tensor) -> bool:
    """Whether the CUDA kernels are there and take heads like those of q (..., L, H, D): tensor cores, so no float32."""
    return library.takes_cuda(q) and q.dtype in HALF and q.shape[-1] <= WIDEST and q.shape[-3] <= MOST_QUERIES


library.register("attention_forward", _reference_forward, "eokit.ops.attention.triton", takes_triton)
library.register("attention_backward", _reference_backward, "eokit.ops.attention.triton", takes_triton)
