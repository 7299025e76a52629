"""What the losses do to one tile of logits, in Triton: `tiles.py` with every pass over a tile made one.

`streamed.py` calls this for CUDA tensors, and for CPU tensors under TRITON_INTERPRET=1, in float32. Bound by memory: 4
bytes a logit forward, which is read and not written back; 8 backward, in place. The ids of a pair are compared in
passing, so that no mask is ever in memory.

    highest' = max(highest, max_j s_ij)     sum' = sum exp(highest - highest') + sum_j exp(s_ij - highest')
    NCE:  slope_ij = exp(s_ij - sums_i) - exp(s_ij - others_i) where j is a positive of i, or - 1 / others_i
    DINO: cross' = cross exp(highest - highest') + sum_j exp(t_ij - highest') s_ij, highest of t
          slope_ij = exp(s_ij - sums_i) - exp(t_ij - teacher_sums_i)

A program goes over all columns of its rows in order and owns their sums: nothing is added by two at once, so that
results do not depend on which program is first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.losses.tiles import Pairs
from eokit.ops.triton_support import Tuned, on_device_of

Grid = Callable[[dict[str, int]], tuple[int]]
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)
CONFIGS = [
    triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=warps, maxnreg=255)
    for rows, columns, warps in ((4, 512, 4), (2, 1024, 4), (1, 2048, 8))
]
"""Steps of 2,048 logits, 16 or 8 a thread: loads of 16 bytes, few sums between threads, and ids of columns that serve
several rows. Not measured. Without a number of registers ptxas spilled 8 bytes of one to fit one more program."""


@triton.jit
def _add(highest, total, tile):
    """Highest and total (rows) with a tile (rows, columns) added, what sums shrink by, and exp(tile - highest)."""
    risen = tl.maximum(highest, tl.max(tile, 1))
    shift = tl.maximum(risen, LOWEST)  # rows without anything so far: exp(-inf - shift) = 0
    decay = tl.exp(highest - shift)
    weights = tl.exp(tile - shift[:, None])
    return risen, total * decay + tl.sum(weights, 1), decay, weights


@triton.jit
def _inside(items, places, rows, columns):
    """Which of these are in the tile (rows, columns), and where they are."""
    inside = (items < rows)[:, None] & (places < columns)[None, :]
    return inside, items[:, None] * columns + places[None, :]


@triton.jit
def _same(id_rows, id_columns, items, places, rows, columns):
    """Where the id of the row is that of the column."""
    left = tl.load(id_rows + items, mask=items < rows, other=0)
    right = tl.load(id_columns + places, mask=places < columns, other=0)
    return left[:, None] == right[None, :]


@triton.jit
def _pairs(
    scores, positives, group_rows, group_columns, block_rows, block_columns, items, places, rows, columns, row_stride
):  # fmt: skip
    """Logits, -inf for what is no candidate, and which candidates are positives: all of them, where nothing says."""
    inside, where = _inside(items, places, rows, columns)
    tile = tl.load(scores + where, mask=inside, other=float("-inf"))
    candidate = inside
    if block_rows is not None:
        candidate = candidate & ~_same(block_rows, block_columns, items, places, rows, columns)
        tile = tl.where(candidate, tile, float("-inf"))
    positive = candidate
    if positives is not None:
        matrix = tl.load(positives + items[:, None] * row_stride + places[None, :], mask=inside, other=0)
        positive = candidate & (matrix != 0)
    if group_rows is not None:
        positive = candidate & _same(group_rows, group_columns, items, places, rows, columns)
    return tile, positive


@triton.jit(do_not_specialize=["rows"])
def nce_add_kernel(
    scores, positives, group_rows, group_columns, block_rows, block_columns, highest, total, near_highest, near_total,
    rows, columns, row_stride, SOME: tl.constexpr, INSIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of `tiles.nce_add`, whose state are the four (rows). SOME: there may be positives in the tile."""
    items = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = items < rows
    top = tl.load(highest + items, mask=exists, other=float("-inf"))
    summed = tl.load(total + items, mask=exists, other=0.0)
    near_top = tl.load(near_highest + items, mask=exists, other=float("-inf"))
    near_summed = tl.load(near_total + items, mask=exists, other=0.0)
    for start in range(0, columns, COLUMNS):
        places = start + tl.arange(0, COLUMNS)
        tile, positive = _pairs(
            scores, positives, group_rows, group_columns, block_rows, block_columns, items, places, rows, columns,
            row_stride,
        )  # fmt: skip
        top, summed, _, _ = _add(top, summed, tile)
        if SOME:
            if INSIDE:
                near_top, near_summed, _, _ = _add(near_top, near_summed, tl.where(positive, tile, float("-inf")))
            else:
                near_top += tl.sum(tl.where(positive, tile, 0.0), 1)
                near_summed += tl.sum(positive.to(tl.float32), 1)
    tl.store(highest + items, top, mask=exists)
    tl.store(total + items, summed, mask=exists)
    if SOME:
        tl.store(near_highest + items, near_top, mask=exists)
        tl.store(near_total + items, near_summed, mask=exists)


@triton.jit(do_not_specialize=["rows"])
def nce_slopes_kernel(
    scores, positives, group_rows, group_columns, block_rows, block_columns, sums, others,
    rows, columns, row_stride, SOME: tl.constexpr, INSIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS x COLUMNS logits of `tiles.nce_slopes`."""
    steps = tl.cdiv(columns, COLUMNS)
    items = (tl.program_id(0) // steps).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    places = tl.program_id(0) % steps * COLUMNS + tl.arange(0, COLUMNS)
    tile, positive = _pairs(
        scores, positives, group_rows, group_columns, block_rows, block_columns, items, places, rows, columns,
        row_stride,
    )  # fmt: skip
    slopes = tl.exp(tile - tl.load(sums + items, mask=items < rows, other=float("inf"))[:, None])
    if SOME:
        other = tl.load(others + items, mask=items < rows, other=float("inf"))[:, None]
        if INSIDE:
            slopes -= tl.exp(tl.where(positive, tile - other, float("-inf")))
        else:
            slopes -= tl.where(positive, 1.0 / other, 0.0)
    inside, where = _inside(items, places, rows, columns)
    tl.store(scores + where, slopes, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def dino_add_kernel(
    scores, targets, center, highest, total, target_highest, target_total, cross, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """ROWS rows of `tiles.dino_add`, whose state are the five (rows)."""
    items = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = items < rows
    top = tl.load(highest + items, mask=exists, other=float("-inf"))
    summed = tl.load(total + items, mask=exists, other=0.0)
    target_top = tl.load(target_highest + items, mask=exists, other=float("-inf"))
    target_summed = tl.load(target_total + items, mask=exists, other=0.0)
    crossed = tl.load(cross + items, mask=exists, other=0.0)
    for start in range(0, columns, COLUMNS):
        places = start + tl.arange(0, COLUMNS)
        inside, where = _inside(items, places, rows, columns)
        tile = tl.load(scores + where, mask=inside, other=float("-inf"))
        target = tl.load(targets + where, mask=inside, other=float("-inf"))
        target -= tl.load(center + places, mask=places < columns, other=0.0)[None, :]
        target_top, target_summed, decay, weights = _add(target_top, target_summed, target)
        crossed = crossed * decay + tl.sum(weights * tl.where(inside, tile, 0.0), 1)
        top, summed, _, _ = _add(top, summed, tile)
    tl.store(highest + items, top, mask=exists)
    tl.store(total + items, summed, mask=exists)
    tl.store(target_highest + items, target_top, mask=exists)
    tl.store(target_total + items, target_summed, mask=exists)
    tl.store(cross + items, crossed, mask=exists)


@triton.jit(do_not_specialize=["rows"])
def dino_slopes_kernel(
    scores, targets, center, sums, teacher_sums, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """ROWS x COLUMNS logits of `tiles.dino_slopes`; targets is left as it is."""
    steps = tl.cdiv(columns, COLUMNS)
    items = (tl.program_id(0) // steps).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    places = tl.program_id(0) % steps * COLUMNS + tl.arange(0, COLUMNS)
    inside, where = _inside(items, places, rows, columns)
    tile = tl.load(scores + where, mask=inside, other=float("-inf"))
    target = tl.load(targets + where, mask=inside, other=float("-inf"))
    target -= tl.load(center + places, mask=places < columns, other=0.0)[None, :]
    slopes = tl.exp(tile - tl.load(sums + items, mask=items < rows, other=float("inf"))[:, None])
    slopes -= tl.exp(target - tl.load(teacher_sums + items, mask=items < rows, other=float("inf"))[:, None])
    tl.store(scores + where, slopes, mask=inside)


def _tuned(kernel: Any, key: list[str], *changed: str) -> Tuned:
    """changed: what the kernel writes over, which the tuner puts back before it times it again."""
    return Tuned(kernel, CONFIGS, key, lambda _: CONFIGS, changed)


_nce_add = _tuned(nce_add_kernel, ["SOME", "INSIDE"], "highest", "total", "near_highest", "near_total")
_nce_slopes = _tuned(nce_slopes_kernel, ["SOME", "INSIDE"], "scores")
_dino_add = _tuned(dino_add_kernel, [], "highest", "total", "target_highest", "target_total", "cross")
_dino_slopes = _tuned(dino_slopes_kernel, [], "scores")


def nce_add(scores: Tensor, pairs: Pairs, state: Tensor, inside: bool) -> None:
    """scores: (rows, columns), left as it is; see `tiles.nce_add`."""
    tensors, row_stride, some = _given(pairs)
    arguments = scores, *tensors, *state, *scores.shape, row_stride
    with on_device_of(scores):
        _nce_add[_by_rows(scores)](*arguments, SOME=some, INSIDE=inside)


def nce_slopes(scores: Tensor, pairs: Pairs, sums: Tensor, others: Tensor, inside: bool) -> Tensor:
    """scores: (rows, columns), in place; see `tiles.nce_slopes`."""
    tensors, row_stride, some = _given(pairs)
    arguments = scores, *tensors, sums, others, *scores.shape, row_stride
    with on_device_of(scores):
        _nce_slopes[_by_steps(scores)](*arguments, SOME=some, INSIDE=inside)
    return scores


def dino_add(scores: Tensor, targets: Tensor, center: Tensor, state: Tensor) -> None:
    """Both tiles are (rows, columns), and left as they are; see `tiles.dino_add`."""
    with on_device_of(scores):
        _dino_add[_by_rows(scores)](scores, targets, center, *state, *scores.shape)


def dino_slopes(scores: Tensor, targets: Tensor, center: Tensor, sums: Tensor, teacher_sums: Tensor) -> Tensor:
    """scores: (rows, columns), in place, targets left as it is; see `tiles.dino_slopes`."""
    with on_device_of(scores):
        _dino_slopes[_by_steps(scores)](scores, targets, center, sums, teacher_sums, *scores.shape)
    return scores


def _given(pairs: Pairs) -> tuple[list[Tensor | None], int, bool]:
    """The tensors that a kernel reads, how far rows of the matrix are apart, and whether there may be positives."""
    matrix, *ids = pairs
    if matrix is not None:
        matrix = (matrix if matrix.stride(1) == 1 else matrix.contiguous()).view(torch.uint8)
    ids = [None if one is None else one.long().contiguous() for one in ids]
    row_stride = 0 if matrix is None else matrix.stride(0)
    return [matrix, *ids], row_stride, matrix is not None or pairs.group_rows is not None


def _by_rows(tile: Tensor) -> Grid:
    return lambda meta: (triton.cdiv(len(tile), meta["ROWS"]),)


def _by_steps(tile: Tensor) -> Grid:
    return lambda meta: (triton.cdiv(len(tile), meta["ROWS"]) * triton.cdiv(tile.shape[1], meta["COLUMNS"]),)
