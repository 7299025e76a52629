"""`eokit::map_rows` and `eokit::sum_unmapped` in Triton: rows of tokens by a map, and the sum of those mapped nowhere.

`autograd.py` calls this for CUDA tensors, and for CPU tensors under TRITON_INTERPRET=1. Both move memory and compute
nothing: 2 D bytes of bfloat16 read and written a row, and 8 of the map.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.triton_support import Tuned, on_device_of, parts_of

MAP = [triton.Config({"ROWS": rows, "COLUMNS": columns}, num_warps=4) for rows, columns in ((4, 512), (16, 128))]
SUM = [triton.Config({"ROWS": 16, "COLUMNS": 128}, num_warps=4)]
"""Tiles of 2,048 elements, 16 a thread: two loads of 16 bytes in flight. Rows narrower than 512 features need less."""


@triton.jit(do_not_specialize=["count", "rows", "position_rows"])
def map_rows_kernel(
    source, map, fill, positions, out, batch_stride, row_stride, positions_stride, count, rows, dim, position_rows,
    BY_OUTPUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[b, r] = (source[b, map[b, r]], or fill where that is negative) + positions, ROWS x COLUMNS at a time.

    source: (B, S, D). map: int64 (B, R). positions: (P, D) or (B, P, D), of the row of the output or of the source.
    """
    tiles = tl.cdiv(dim, COLUMNS)
    items = (tl.program_id(0) // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # b R + r
    columns = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    exists = items < count
    batch = items // rows
    origin = tl.load(map + items, mask=exists, other=-1)
    known = exists & (origin >= 0)
    inside = (columns < dim)[None, :]
    where = source + (batch * batch_stride + origin * row_stride)[:, None] + columns[None, :]
    tile = tl.load(where, mask=known[:, None] & inside, other=0.0).to(tl.float32)
    if fill is not None:
        nothing = tl.load(fill + columns, mask=columns < dim, other=0.0).to(tl.float32)
        tile = tl.where(known[:, None], tile, nothing[None, :])
    if positions is not None:
        if BY_OUTPUT:
            place, placed = items % rows % position_rows, exists
        else:
            place, placed = tl.where(known, origin, 0) % position_rows, known
        where = positions + (batch * positions_stride + place * dim)[:, None] + columns[None, :]
        tile += tl.load(where, mask=placed[:, None] & inside, other=0.0).to(tl.float32)  # rounded once, below
    where = out + items[:, None] * dim + columns[None, :]
    tl.store(where, tile.to(out.dtype.element_ty), mask=exists[:, None] & inside)


@triton.jit(do_not_specialize=["count", "parts"])
def sum_unmapped_kernel(tokens, map, sums, count, parts, dim, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """sums[part] (D) = the sum of those rows of the part whose map is negative, in order; tokens: (count, D)."""
    tiles = tl.cdiv(dim, COLUMNS)
    part = (tl.program_id(0) // tiles).to(tl.int64)
    columns = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    end = (part + 1) * count // parts
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(part * count // parts, end, ROWS):
        items = start + tl.arange(0, ROWS)
        wanted = (items < end) & (tl.load(map + items, mask=items < end, other=0) < 0)
        where = tokens + items[:, None] * dim + columns[None, :]
        total += tl.load(where, mask=wanted[:, None] & (columns < dim)[None, :], other=0.0).to(tl.float32)
    tl.store(sums + part * dim + columns, tl.sum(total, 0), mask=columns < dim)


_map_rows_kernel = Tuned(map_rows_kernel, MAP, ["dim"], lambda _: MAP)
_sum_unmapped_kernel = Tuned(sum_unmapped_kernel, SUM, ["dim"], lambda _: SUM)


def map_rows(
    source: Tensor, map: Tensor, back: Tensor, fill: Tensor | None, positions: Tensor | None, by_output: bool
) -> Tensor:
    """(B, S, D) -> (B, R, D); see csrc/library.cpp."""
    out = source.new_empty(*map.shape, source.shape[-1])
    (batch, rows), dim = map.shape, source.shape[-1]
    own = positions is not None and positions.dim() == 3
    position_rows = positions.shape[-2] if positions is not None else 1
    source = source if source.stride(-1) == 1 or dim == 1 else source.contiguous()
    if out.numel():

        def grid(meta: dict[str, int]) -> tuple[int]:
            return (triton.cdiv(batch * rows, meta["ROWS"]) * triton.cdiv(dim, meta["COLUMNS"]),)

        with on_device_of(source):
            _map_rows_kernel[grid](
                source, map.contiguous(), fill, positions, out,
                *source.stride()[:2], position_rows * dim if own else 0, batch * rows, rows, dim, position_rows,
                BY_OUTPUT=by_output,
            )  # fmt: skip
    return out


def sum_unmapped(rows: Tensor, map: Tensor) -> Tensor:
    """(B, R, D) -> float32 (D): parts of fixed extent, added in order."""
    count, dim = map.numel(), rows.shape[-1]
    parts = parts_of(count, dim)
    sums = rows.new_empty(parts, dim, dtype=torch.float32)
    if sums.numel():
        with on_device_of(rows):
            _sum_unmapped_kernel[lambda meta: (parts * triton.cdiv(dim, meta["COLUMNS"]),)](
                rows.contiguous(), map.contiguous(), sums, count, parts, dim
            )
    return sums.sum(0)
