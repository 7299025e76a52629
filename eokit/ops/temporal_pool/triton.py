"""`eokit::pool_*` in Triton: a pixel's dates are streamed through one program, scores never leave the registers.

`autograd.py` calls this for CUDA tensors, and for CPU tensors under TRITON_INTERPRET=1. The formulas, h the head of
column d, are those of `reference.py`; bias is p . u, made once per date of a sample:

    s_th = x_t . u_h + bias_th     a = exp(s - lse)     out_d = sum_t a_th (x_td + p_td)
    da_th = sum_(d in h) g_d (x_td + p_td)     ds = a (da - sum_t a da)     dx_td = sum_h ds_th u_hd + a_th g_d
    du = sum_t ds^T x     dbias = sum of ds over the pixels of a sample

Sums of a head over its own columns are products with matrices that are 0 elsewhere: at least 16 heads are one tile of
the tensor cores anyway, and any width of a head will do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.triton_support import dot, on_device_of, upcasts

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
DATES = 16  # of a step: the least that a product takes, so that 144 dates are 9 exact steps
PARTS = 512  # at most, of the pixels of all samples, each with sums of its own


@triton.jit
def _exact(a, b, UPCAST: tl.constexpr):
    """A @ b of float32 b and a of any element type: in half precision b is split in two, so that none of it is lost."""
    if a.dtype == tl.float32 or UPCAST:
        return dot(a.to(tl.float32), b, "ieee", False)
    high = b.to(a.dtype)
    return dot(a, high, "ieee", False) + dot(a, (b - high.to(tl.float32)).to(a.dtype), "ieee", False)


@triton.jit
def _step(x, positions, bias, mask, days, columns, heads, date_stride, dates, dim, width, head_count):
    """One step of dates: x (t, d), x + p (t, d), bias (t, h), which dates count (t)."""
    exists = days < dates
    inside = exists[:, None] & (columns < dim)[None, :]
    tile = tl.load(x + days.to(tl.int64)[:, None] * date_stride + columns[None, :], mask=inside, other=0.0)
    place = tl.load(positions + days[:, None] * width + (columns % width)[None, :], mask=inside, other=0.0)
    known = exists[:, None] & (heads < head_count)[None, :]
    offset = tl.load(bias + days[:, None] * head_count + heads[None, :], mask=known, other=0.0)
    if mask is not None:
        exists = exists & (tl.load(mask + days, mask=exists, other=0) != 0)
    return tile, tile.to(tl.float32) + place, offset, exists


@triton.jit
def _weigh(
    x, positions, bias, mask, folded, log_sum, days, columns, heads, date_stride, dates, dim, width, head_count,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """One step of dates when log_sum (h), of base 2, is known: x (t, d), x + p (t, d), a (t, h)."""
    tile, values, offset, valid = _step(
        x, positions, bias, mask, days, columns, heads, date_stride, dates, dim, width, head_count
    )
    scores = (_exact(tile, tl.trans(folded), UPCAST) + offset) * LOG2E
    return tile, values, tl.where(valid[:, None], tl.exp2(scores - log_sum[None, :]), 0.0)


@triton.jit(do_not_specialize=["pixels", "dates"])
def pool_forward_kernel(
    x, queries, bias, positions, mask, out, lse, pixel_stride, date_stride, pixels, dates, dim, width, head_count,
    DIM: tl.constexpr, HEADS: tl.constexpr, STEP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Out (D) and lse (H) of one pixel; `pixels`: of a sample."""
    pixel = tl.program_id(0).to(tl.int64)
    sample = pixel // pixels
    columns, heads = tl.arange(0, DIM), tl.arange(0, HEADS)
    known = (heads < head_count)[:, None] & (columns < dim)[None, :]
    own = heads[:, None] == (columns // width)[None, :]
    folded = tl.load(queries + heads[:, None] * dim + columns[None, :], mask=known, other=0.0)  # u, (h, d)
    top = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    sums = tl.zeros((HEADS, DIM), tl.float32)  # of every head over all columns; its own are taken at the end
    if mask is not None:
        mask += pixel * dates
    for start in range(0, dates, STEP):
        days = start + tl.arange(0, STEP)
        tile, values, offset, valid = _step(
            x + pixel * pixel_stride, positions + sample * dates * width, bias + sample * dates * head_count, mask,
            days, columns, heads, date_stride, dates, dim, width, head_count,
        )  # fmt: skip
        scores = (_exact(tile, tl.trans(folded), UPCAST) + offset) * LOG2E  # (t, h)
        scores = tl.where(valid[:, None], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 0))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - shift[None, :])
        fade = tl.exp2(top - shift)
        total = total * fade + tl.sum(weights, 0)
        sums = sums * fade[:, None] + dot(tl.trans(weights).to(tile.dtype), values.to(tile.dtype), "ieee", UPCAST)
        top = new_top
    some = total > 0.0
    result = tl.sum(tl.where(own, sums / tl.where(some, total, 1.0)[:, None], 0.0), 0)
    tl.store(out + pixel * dim + columns, result.to(out.dtype.element_ty), mask=columns < dim)
    log_sum = tl.where(some, (top + tl.log2(tl.where(some, total, 1.0))) * LN2, float("inf"))
    tl.store(lse + pixel * head_count + heads, log_sum, mask=heads < head_count)


@triton.jit(do_not_specialize=["pixels", "parts", "dates"])
def pool_backward_kernel(
    grad_out, x, queries, bias, positions, mask, lse, grad_x, query_sums, bias_sums,
    pixel_stride, date_stride, pixels, parts, dates, dim, width, head_count,
    DIM: tl.constexpr, HEADS: tl.constexpr, STEP: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Dx of one part of a sample's pixels, and their sums: query_sums (S, parts, H, D), bias_sums (S, parts, T, H)."""
    sample, part = (tl.program_id(0) // parts).to(tl.int64), (tl.program_id(0) % parts).to(tl.int64)
    columns, heads = tl.arange(0, DIM), tl.arange(0, HEADS)
    known = (heads < head_count)[:, None] & (columns < dim)[None, :]
    own = heads[:, None] == (columns // width)[None, :]
    folded = tl.load(queries + heads[:, None] * dim + columns[None, :], mask=known, other=0.0)
    positions += sample * dates * width
    bias += sample * dates * head_count
    bias_sums += (sample * parts + part) * dates * head_count
    total = tl.zeros((HEADS, DIM), tl.float32)
    first = part * pixels // parts
    for within in range(first, (part + 1) * pixels // parts):
        pixel = sample * pixels + within
        grad = tl.load(grad_out + pixel * dim + columns, mask=columns < dim, other=0.0)
        spread = tl.where(own, grad[None, :], 0.0).to(grad.dtype)  # (h, d), 0 but in a head's own columns
        log_sum = tl.load(lse + pixel * head_count + heads, mask=heads < head_count, other=float("inf")) * LOG2E
        here = mask
        if mask is not None:
            here = mask + pixel * dates
        # 1. sum_t a da; 2. with it ds, dx and the sums. The second pass reads the pixel from the cache.
        delta = tl.zeros((HEADS,), tl.float32)
        for start in range(0, dates, STEP):
            days = start + tl.arange(0, STEP)
            tile, values, weights = _weigh(
                x + pixel * pixel_stride, positions, bias, here, folded, log_sum, days, columns, heads, date_stride,
                dates, dim, width, head_count, UPCAST,
            )  # fmt: skip
            delta += tl.sum(weights * dot(values.to(tile.dtype), tl.trans(spread), "ieee", UPCAST), 0)
        for start in range(0, dates, STEP):
            days = start + tl.arange(0, STEP)
            tile, values, weights = _weigh(
                x + pixel * pixel_stride, positions, bias, here, folded, log_sum, days, columns, heads, date_stride,
                dates, dim, width, head_count, UPCAST,
            )  # fmt: skip
            slopes = weights * (dot(values.to(tile.dtype), tl.trans(spread), "ieee", UPCAST) - delta[None, :])
            half = slopes.to(tile.dtype)
            grad_tile = _exact(half, folded, UPCAST) + dot(weights.to(tile.dtype), spread, "ieee", UPCAST)
            inside = (days < dates)[:, None] & (columns < dim)[None, :]
            where = grad_x + (pixel * dates + days)[:, None] * dim + columns[None, :]
            tl.store(where, grad_tile.to(grad_x.dtype.element_ty), mask=inside)
            total += dot(tl.trans(half), tile, "ieee", UPCAST)
            # This program alone owns these sums; the barrier lets another of its threads read them at the next pixel.
            where = bias_sums + days[:, None] * head_count + heads[None, :]
            inside = (days < dates)[:, None] & (heads < head_count)[None, :]
            before = tl.load(where, mask=inside & (within > first), other=0.0)
            tl.store(where, before + slopes, mask=inside)
            tl.debug_barrier()
    where = query_sums + (sample * parts + part) * head_count * dim + heads[:, None] * dim + columns[None, :]
    tl.store(where, total, mask=known)


HALF = 256
"""The most features of products in half precision: with more, their operands need a stack, those of float32 do not."""


def constants_of(x: Tensor, heads: int) -> dict[str, int | bool]:
    """What the kernels are compiled for: x (..., D) and heads padded to powers of two, warps, registers.

    Without a number of registers ptxas spills a few bytes to fit one more program on a multiprocessor.
    """
    dim = max(16, triton.next_power_of_2(x.shape[-1]))
    padded = {"DIM": dim, "HEADS": max(16, triton.next_power_of_2(heads)), "STEP": DATES}
    upcast = upcasts(x) or (x.element_size() == 2 and dim > HALF)
    return {
        **padded,
        "UPCAST": upcast,
        "num_warps": 4 if dim * x.element_size() <= 128 else 8,
        "num_stages": 1,
        "maxnreg": 255,
    }


def pool_forward(
    x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x: (P, T, D) -> (P, D) and lse (P, H); see csrc/library.cpp."""
    (pixels, dates, dim), heads = x.shape, len(queries)
    out, lse = x.new_empty(pixels, dim), x.new_empty(pixels, heads, dtype=torch.float32)
    if out.numel():
        with on_device_of(x):
            pool_forward_kernel[(pixels,)](
                x, queries, bias, positions, _bytes(mask), out, lse, *x.stride()[:2], pixels // len(bias), dates, dim,
                dim // heads, heads, **constants_of(x, heads),
            )  # fmt: skip
    return out, lse


def pool_backward(
    grad_out: Tensor, x: Tensor, queries: Tensor, bias: Tensor, positions: Tensor, mask: Tensor | None, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x (P, T, D), queries (H, D) and bias (S, T, H); parts of fixed extent, added in order."""
    (pixels, dates, dim), (heads, samples) = x.shape, (len(queries), len(bias))
    grad_x = x.new_empty(x.shape)
    parts = max(1, min(pixels // max(samples, 1), PARTS // max(samples, 1)))
    query_sums = queries.new_zeros(samples, parts, heads, dim)
    bias_sums = queries.new_zeros(samples, parts, dates, heads)
    if x.numel():
        with on_device_of(x):
            pool_backward_kernel[(samples * parts,)](
                grad_out.contiguous(), x, queries, bias, positions, _bytes(mask), lse, grad_x, query_sums, bias_sums,
                *x.stride()[:2], pixels // samples, parts, dates, dim, dim // heads, heads,
                **constants_of(x, heads),
            )  # fmt: skip
    return grad_x, query_sums.sum((0, 1)), bias_sums.sum(1)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.contiguous().view(torch.uint8)
