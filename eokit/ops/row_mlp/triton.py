"""`eokit::norm_relu*` in Triton: group norm and ReLU of rows in one pass; the products between stay the library's.

`blocked.py` calls this for CUDA tensors, and for CPU tensors under TRITON_INTERPRET=1. Bound by memory: a row of C
bfloat16 features is 4 C bytes forward, 6 C backward; statistics are float32 and never leave the registers.

    n = (z - mean) / sqrt(var + epsilon)     out = relu(n gain + shift)     mean, var: of each group of each row
    g = grad where out > 0, else 0     dgain = sum n g     dshift = sum g     e = g gain
    dz = (e - mean(e) - n mean(n e)) / sqrt(var + epsilon)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.triton_support import on_device_of, parts_of

TILE = 1024
"""Elements that a program holds at a time, 8 a thread of four warps: with 32 a thread the backward pass spills."""


@triton.jit
def _normed(tile, inside, width, epsilon):
    """(n, 1 / deviation) of rows (rows, width), 0 outside; two passes over registers, not a difference of squares."""
    mean = tl.sum(tile, 1) / width
    centred = tl.where(inside, tile - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / width + epsilon)
    return centred * scale[:, None], scale


@triton.jit(do_not_specialize=["count"])
def norm_relu_kernel(
    z, gain, shift, out, count, groups, width, epsilon, ROWS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """ROWS groups of rows: z and out are (count, width), a row of C = groups * width after the other."""
    items = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # row * groups + group
    columns = tl.arange(0, WIDTH)
    inside = (items < count)[:, None] & (columns < width)[None, :]
    where = items[:, None] * width + columns[None, :]
    features = (items % groups)[:, None] * width + columns[None, :]
    normed, _ = _normed(tl.load(z + where, mask=inside, other=0.0).to(tl.float32), inside, width, epsilon)
    lifted = tl.load(gain + features, mask=inside, other=0.0) * normed + tl.load(
        shift + features, mask=inside, other=0.0
    )
    tl.store(out + where, tl.maximum(lifted, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "parts"])
def norm_relu_backward_kernel(
    grad_out, z, gain, shift, grad_z, gain_sums, shift_sums, rows, groups, width, parts, epsilon,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One group of one part of the rows, ROWS at a time; sums: (parts, C), which torch adds up in order."""
    group, part = tl.program_id(0) % groups, (tl.program_id(0) // groups).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    features = group * width + columns
    own_gain = tl.load(gain + features, mask=columns < width, other=0.0)
    own_shift = tl.load(shift + features, mask=columns < width, other=0.0)
    gain_total = tl.zeros((WIDTH,), tl.float32)
    shift_total = tl.zeros((WIDTH,), tl.float32)
    end = (part + 1) * rows // parts
    for start in range(part * rows // parts, end, ROWS):
        items = start + tl.arange(0, ROWS)
        inside = (items < end)[:, None] & (columns < width)[None, :]
        where = items[:, None] * groups * width + features[None, :]
        normed, scale = _normed(tl.load(z + where, mask=inside, other=0.0).to(tl.float32), inside, width, epsilon)
        let = tl.load(grad_out + where, mask=inside, other=0.0).to(tl.float32)
        let = tl.where(normed * own_gain[None, :] + own_shift[None, :] > 0.0, let, 0.0)
        gain_total += tl.sum(let * normed, 0)
        shift_total += tl.sum(let, 0)
        slope = let * own_gain[None, :]
        along = tl.sum(slope * normed, 1) / width
        slope = (slope - (tl.sum(slope, 1) / width)[:, None] - normed * along[:, None]) * scale[:, None]
        tl.store(grad_z + where, slope.to(grad_z.dtype.element_ty), mask=inside)
    tl.store(gain_sums + part * groups * width + features, gain_total, mask=columns < width)
    tl.store(shift_sums + part * groups * width + features, shift_total, mask=columns < width)


def tile_of(width: int) -> dict[str, int]:
    """WIDTH >= width, a power of two, as many ROWS of it as make a tile, and more warps for a row wider than that."""
    padded = triton.next_power_of_2(max(width, 1))
    return {"ROWS": max(1, min(16, TILE // padded)), "WIDTH": padded, "num_warps": max(4, padded // 256)}


def norm_relu(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """z: (R, C) -> (R, C)."""
    out = torch.empty_like(z, memory_format=torch.contiguous_format)
    _launch(z.contiguous(), weight, bias, groups, epsilon, out)
    return out


def norm_relu_(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> None:
    """In place: a program writes what it alone has read."""
    out = z.contiguous()
    _launch(out, weight, bias, groups, epsilon, out)
    if out.data_ptr() != z.data_ptr():
        z.copy_(out)


def _launch(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float, out: Tensor) -> None:
    count, width = len(z) * groups, z.shape[1] // groups
    if z.numel():
        tile = tile_of(width)
        with on_device_of(z):
            norm_relu_kernel[(triton.cdiv(count, tile["ROWS"]),)](
                z, weight.contiguous(), bias.contiguous(), out, count, groups, width, epsilon, **tile
            )


def norm_relu_backward(
    grad_out: Tensor, z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z (R, C), weight and bias (C).

    With less than all registers allowed for, ptxas spills 8 bytes on sm_100 to fit one more program of groups of 384.
    """
    (rows, features), grad_z = z.shape, torch.empty_like(z, memory_format=torch.contiguous_format)
    parts = parts_of(rows, features)
    sums = weight.new_zeros(2, parts, features, dtype=torch.float32)
    if z.numel():
        with on_device_of(z):
            norm_relu_backward_kernel[(parts * groups,)](
                grad_out.contiguous(), z.contiguous(), weight.contiguous(), bias.contiguous(), grad_z, *sums,
                rows, groups, features // groups, parts, epsilon, **tile_of(features // groups), maxnreg=255,
            )  # fmt: skip
    return grad_z, sums[0].sum(0), sums[1].sum(0)  # of one sum they would be views, which torch refuses of an op
