"""A layer of the row MLP in one Triton kernel: the product, and group norm and ReLU as its epilogue.

`blocked.py` calls this for CUDA tensors in half precision where `fits`. A tile holds whole groups of its rows, so that
the norm is done in registers: z is never in memory, 4 R C' bytes less than product and norm apart, and never rounded.

    z = x weight^T + bias     n = (z - mean) / sqrt(var + epsilon)     out = relu(n gain + shift)

By arithmetic for an H100, as many outputs as inputs: limited by products from about 350 inputs on, by memory below;
2 C operations an output at 60 % of 989 TFLOP/s, and 2 bytes read and 2 written at 3.35 TB/s.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.row_mlp.triton import _normed
from eokit.ops.triton_support import PRECISION, dot, on_device_of, upcasts

TILES = {32: (64, 32, 4, 3), 64: (64, 32, 4, 3), 128: (64, 32, 8, 3), 256: (64, 32, 8, 3)}
"""Padded width of a group -> (ROWS, STEP, warps, stages): 64 sums a thread at most, which leaves registers for the
operands; 64 x 128 on four warps needs a stack on sm_80. A group of 384 pads to 512: a quarter of the product would be
of zeros, and the rows so few that the weights are read too often; it is left to the library's product and `norm_relu`.
"""
WIDEST = max(TILES)


@triton.jit(do_not_specialize=["rows"])
def linear_norm_relu_kernel(
    x, weight, offset, gain, shift, out, x_stride, rows, inputs, groups, width, epsilon,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one group. x: (R, C). weight: (C', C), offset, gain, shift: (C'), out: (R, C'), C' = groups width.

    The groups of the same rows are neighbours in the grid, which find x in L2.
    """
    group = tl.program_id(0) % groups
    items = (tl.program_id(0) // groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, WIDTH)
    features = group * width + columns
    exists, known = items < rows, columns < width
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, inputs, STEP):  # 1. z, STEP inputs at a time
        inner = start + tl.arange(0, STEP)
        given = inner < inputs
        left = tl.load(x + items[:, None] * x_stride + inner[None, :], mask=exists[:, None] & given[None, :], other=0.0)
        where = weight + features[None, :] * inputs + inner[:, None]
        right = tl.load(where, mask=known[None, :] & given[:, None], other=0.0)
        total += dot(left, right, PRECISION, UPCAST)
    total += tl.load(offset + features, mask=known, other=0.0).to(tl.float32)[None, :]
    inside = exists[:, None] & known[None, :]
    normed, _ = _normed(total, inside, width, epsilon)  # 2. the statistics of each row's group: all of it is here
    own_gain = tl.load(gain + features, mask=known, other=0.0)[None, :]
    lifted = normed * own_gain + tl.load(shift + features, mask=known, other=0.0)[None, :]
    where = out + items[:, None] * groups * width + features[None, :]
    tl.store(where, tl.maximum(lifted, 0.0).to(out.dtype.element_ty), mask=inside)  # 3. rounded once


def fits(features: int, groups: int) -> bool:
    """Whether a tile holds whole groups of that width."""
    return features // groups <= WIDEST


def tile_of(width: int) -> dict[str, int]:
    """Of a group of `width` features."""
    padded = max(min(TILES), triton.next_power_of_2(width))
    rows, step, warps, stages = TILES[padded]
    return {"ROWS": rows, "WIDTH": padded, "STEP": step, "num_warps": warps, "num_stages": stages}


def linear_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, groups: int, epsilon: float, out: Tensor
) -> None:
    """relu(group_norm(x weight^T + bias) gain + shift) into out (R, C'), contiguous; gain and shift are float32."""
    (rows, inputs), width = x.shape, len(weight) // groups
    if out.numel():
        tile = tile_of(width)
        with on_device_of(x):
            linear_norm_relu_kernel[(triton.cdiv(rows, tile["ROWS"]) * groups,)](
                x, weight.contiguous(), bias.contiguous(), gain.contiguous(), shift.contiguous(), out,
                x.stride(0), rows, inputs, groups, width, epsilon, PRECISION=PRECISION, UPCAST=upcasts(x), **tile,
            )  # fmt: skip
