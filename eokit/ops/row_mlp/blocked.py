"""The row MLP a block of rows at a time, so that activations never leave the cache; the products are torch's own.

The backward makes a block's activations once more instead of keeping them: a third more products, and no memory that
grows with layers. Blocks come in one order and are of one size, so that results depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.row_mlp import reference
from eokit.ops.wiring import refuse_second_derivative, without_autocast

ROWS = 512
"""Rows of a block: at 1,536 features 3 MiB of float32. 512 to 2,048 were equally fast, 256 a fifth slower."""
CUDA_ROWS = 65_536
"""Rows of a block on a GPU, whose many cores 512 rows would not fill: 200 MB of bfloat16 at 1,536 features. By
arithmetic, not measured."""


def _rows_of(x: Tensor) -> int:
    return CUDA_ROWS if x.is_cuda else ROWS


@torch.library.register_fake("eokit::norm_relu")
def _(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    return torch.empty_like(z)


@torch.library.register_fake("eokit::norm_relu_")
def _(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> None:
    return None


@torch.library.register_fake("eokit::norm_relu_backward")
def _(
    grad_out: Tensor, z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(z), torch.empty_like(weight), torch.empty_like(bias)


def _norm_relu_in_place(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> None:
    z.copy_(reference.norm_relu(z, weight, bias, groups, epsilon))


def _norm_relu_backward(
    grad_out: Tensor, z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, ...]:
    wide = torch.promote_types(z.dtype, torch.float32)
    rows, let = z.to(wide).unflatten(-1, (groups, -1)), grad_out.to(wide)
    scale = (rows.var(-1, correction=0, keepdim=True) + epsilon).rsqrt()
    normed = (rows - rows.mean(-1, keepdim=True)) * scale
    let = let * (normed.flatten(-2) * weight + bias > 0)
    g = (let * weight).unflatten(-1, (groups, -1))
    grad_z = scale * (g - g.mean(-1, keepdim=True) - normed * (g * normed).mean(-1, keepdim=True))
    return grad_z.flatten(-2).to(z.dtype), (let * normed.flatten(-2)).sum(0), let.sum(0)


HALF = (torch.bfloat16, torch.float16)
"""Where tensor cores make the product: in float32 the library's is the better one."""
WIDEST = 2048
"""Features of a group that a Triton kernel holds in registers."""


def _takes_triton(x: Tensor, *rest: Any) -> bool:
    """x: (R, C), of which every op here has one first; rest ends in groups, epsilon."""
    return library.takes_triton(x) and x.shape[1] <= WIDEST * rest[-2]


library.register("norm_relu", reference.norm_relu, "eokit.ops.row_mlp.triton", _takes_triton)
library.register("norm_relu_", _norm_relu_in_place, "eokit.ops.row_mlp.triton", _takes_triton)
library.register("norm_relu_backward", _norm_relu_backward, "eokit.ops.row_mlp.triton", _takes_triton)


@torch.library.custom_op("eokit::row_mlp_forward", mutates_args=())
def row_mlp_forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gains: Sequence[Tensor],
    shifts: Sequence[Tensor],
    groups: int,
    epsilon: float,
) -> Tensor:
    """Weights (C', C) and biases (C') in the dtype of x (R, C), gains and shifts (C') float32 -> (R, last C')."""
    out = x.new_empty(len(x), len(weights[-1]))
    block = _rows_of(x)
    buffers = [x.new_empty(min(block, len(x)), len(weight)) for weight in weights[:-1]]
    for start in range(0, len(x), block):
        hidden = x[start : start + block]
        targets = [buffer[: len(hidden)] for buffer in buffers] + [out[start : start + block]]
        for target, weight, bias, gain, shift in zip(targets, weights, biases, gains, shifts, strict=True):
            _layer(hidden, weight, bias, gain, shift, groups, epsilon, target)
            hidden = target
    return out


def _layer(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, groups: int, epsilon: float, out: Tensor
) -> None:
    """One layer into `out`: in Triton's half precision one kernel where a group fits, else product and norm."""
    if x.dtype in HALF and library.takes_triton(x):
        from eokit.ops.row_mlp import triton_gemm

        if triton_gemm.fits(len(weight), groups):
            return triton_gemm.linear_norm_relu(x, weight, bias, gain, shift, groups, epsilon, out)
    torch.addmm(bias, x, weight.T, out=out)
    torch.ops.eokit.norm_relu_(out, gain, shift, groups, epsilon)


@torch.library.custom_op("eokit::row_mlp_backward", mutates_args=())
def row_mlp_backward(
    grad: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gains: Sequence[Tensor],
    shifts: Sequence[Tensor],
    groups: int,
    epsilon: float,
) -> list[Tensor]:
    """The gradients of x, then of all weights, biases, gains and shifts. Sums over blocks are float32."""
    grad_x = torch.empty_like(x)
    sums = [[torch.zeros_like(one, dtype=torch.float32) for one in kind] for kind in (weights, biases, gains, shifts)]
    block = _rows_of(x)
    with without_autocast(x):
        for start in range(0, len(x), block):
            inputs, linears = [x[start : start + block]], []
            for weight, bias, gain, shift in zip(weights, biases, gains, shifts, strict=True):
                linears.append(torch.addmm(bias, inputs[-1], weight.T))
                inputs.append(torch.ops.eokit.norm_relu(linears[-1], gain, shift, groups, epsilon))
            slope = grad[start : start + block]
            for i in reversed(range(len(weights))):
                slope, *of_norm = torch.ops.eokit.norm_relu_backward(
                    slope, linears[i], gains[i], shifts[i], groups, epsilon
                )
                for total, one in zip(
                    (kind[i] for kind in sums), (slope.T @ inputs[i], slope.sum(0), *of_norm), strict=True
                ):
                    total += one
                slope = slope @ weights[i]
            grad_x[start : start + block] = slope
    kinds = zip(sums, (weights, biases, gains, shifts), strict=True)
    return [grad_x, *(total.to(one.dtype) for kind, given in kinds for total, one in zip(kind, given, strict=True))]


@row_mlp_forward.register_fake
def _(x: Tensor, weights: Sequence[Tensor], *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], weights[-1].shape[0])


@row_mlp_backward.register_fake
def _(grad: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], gains: Sequence[Tensor],
      shifts: Sequence[Tensor], groups: int, epsilon: float) -> list[Tensor]:  # fmt: skip
    return [torch.empty_like(one) for one in (x, *weights, *biases, *gains, *shifts)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *kinds, ctx.groups, ctx.epsilon = inputs
    ctx.count = len(kinds[0])
    ctx.save_for_backward(x, *(one for kind in kinds for one in kind))


def _gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, *rest = ctx.saved_tensors
    kinds = [rest[i : i + ctx.count] for i in range(0, len(rest), ctx.count)]
    grad_x, *grads = row_mlp_backward(grad.contiguous(), x, *kinds, ctx.groups, ctx.epsilon)
    return grad_x, *(grads[i : i + ctx.count] for i in range(0, len(grads), ctx.count)), None, None


row_mlp_forward.register_autograd(_gradient, setup_context=_setup_context)
refuse_second_derivative("row_mlp_backward", "row_mlp")
refuse_second_derivative("norm_relu_backward", "row_mlp")
