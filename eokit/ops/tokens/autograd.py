"""What torch must know of the token ops beyond their kernels: shapes, gradients, the plain fallback.

Rows go back by the map that leads the other way, or are summed: where they were mapped to, or that were mapped nowhere.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.tokens import reference


def _fake_invert(index: Tensor, length: int) -> Tensor:
    return index.new_empty(index.shape[0], length)


def _fake_map(
    source: Tensor, map: Tensor, back: Tensor, fill: Tensor | None, positions: Tensor | None, by_output: bool
) -> Tensor:
    return source.new_empty(*map.shape, source.shape[-1])


def _fake_sum(rows: Tensor, map: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[-1], dtype=torch.promote_types(rows.dtype, torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, map, back, fill, positions, ctx.by_output = inputs
    ctx.save_for_backward(map, back)
    ctx.fill_dtype = None if fill is None else fill.dtype
    ctx.positions_shape = None if positions is None else positions.shape


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """ops: the namespace of the forward."""
    map, back = ctx.saved_tensors
    grad = grad.contiguous()
    needs_source, _, _, needs_fill, needs_positions, _ = ctx.needs_input_grad
    to_source = to_fill = to_positions = None
    shared = needs_positions and len(ctx.positions_shape) == 2
    if shared and _sums_in_place(ctx, grad, map if ctx.by_output else back):
        if ctx.by_output:
            to_positions, to_fill = torch.ops.eokit.sum_grid(grad, map)
        else:
            to_positions = torch.ops.eokit.sum_mapped(grad, back, map)
        to_positions = to_positions.to(grad.dtype)
    if needs_source or (needs_positions and to_positions is None and not ctx.by_output):
        to_source = ops.map_rows(grad, back, map, None, None, False)
    if needs_fill:
        to_fill = (ops.sum_unmapped(grad, map) if to_fill is None else to_fill).to(ctx.fill_dtype)
    if needs_positions and to_positions is None:
        grid: Any = grad if ctx.by_output else to_source
        to_positions = _over_samples(grid, *ctx.positions_shape) if shared else grid
    return to_source if needs_source else None, None, None, to_fill if needs_fill else None, to_positions, None


def _sums_in_place(ctx: Any, grad: Tensor, places: Tensor) -> bool:
    """Whether gradients of shared positions are summed where the rows are, which reads them once less.

    Not so on a GPU, where nothing was measured, and with a ragged index, whose samples follow each other in a row.
    """
    return grad.device.type == "cpu" and places.shape[1] == ctx.positions_shape[0]


def _over_samples(rows: Tensor, length: int, dim: int) -> Tensor:
    """The sum over samples, each of `length` rows; a ragged index has them one after the other in a row."""
    samples = rows.shape[0] * rows.shape[1] // length if length else 0
    return rows.reshape(samples, length, dim).sum(0)


def _setup_sum(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    rows, map = inputs
    ctx.save_for_backward(map)
    ctx.dtype = rows.dtype


def _backward_of_sum(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (map,) = ctx.saved_tensors
    return torch.where((map < 0)[..., None], grad.to(ctx.dtype), 0), None


def _fake_mapped(rows: Tensor, map: Tensor, back: Tensor) -> Tensor:
    return rows.new_empty(map.shape[1], rows.shape[-1], dtype=torch.promote_types(rows.dtype, torch.float32))


def _setup_mapped(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    rows, _, back = inputs
    ctx.save_for_backward(back)
    ctx.dtype = rows.dtype


def _backward_of_mapped(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (back,) = ctx.saved_tensors
    if not len(grad):  # nothing was mapped
        return grad.new_zeros(*back.shape, grad.shape[1], dtype=ctx.dtype), None, None
    return torch.where((back >= 0)[..., None], grad[back.clamp(min=0)], 0).to(ctx.dtype), None, None


def _fake_grid(rows: Tensor, map: Tensor) -> tuple[Tensor, Tensor]:
    unmapped = _fake_sum(rows, map)
    return unmapped.new_empty(rows.shape[1:]), unmapped


def _setup_grid(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    _setup_sum(ctx, inputs, output[1])


def _backward_of_grid(ctx: Any, over_batch: Tensor, unmapped: Tensor) -> tuple[Tensor, None]:
    (map,) = ctx.saved_tensors
    return (over_batch + torch.where((map < 0)[..., None], unmapped, 0)).to(ctx.dtype), None


for _ops in (torch.ops.eokit, torch.ops.eokit_cuda):
    torch.library.register_fake(f"{_ops.name}::invert_index", _fake_invert)
    torch.library.register_fake(f"{_ops.name}::map_rows", _fake_map)
    torch.library.register_fake(f"{_ops.name}::sum_unmapped", _fake_sum)
    torch.library.register_autograd(f"{_ops.name}::map_rows", partial(_backward, _ops), setup_context=_setup_context)
    torch.library.register_autograd(f"{_ops.name}::sum_unmapped", _backward_of_sum, setup_context=_setup_sum)


def _map_rows(
    source: Tensor, map: Tensor, back: Tensor, fill: Tensor | None, positions: Tensor | None, by_output: bool
) -> Tensor:
    return reference.map_rows(source, map, fill, positions, by_output)


library.register("invert_index", reference.invert_index)
library.register("map_rows", _map_rows, "eokit.ops.tokens.triton")
torch.library.register_fake("eokit::sum_mapped", _fake_mapped)
torch.library.register_autograd("eokit::sum_mapped", _backward_of_mapped, setup_context=_setup_mapped)
library.register("sum_mapped", reference.sum_mapped)
torch.library.register_fake("eokit::sum_grid", _fake_grid)
torch.library.register_autograd("eokit::sum_grid", _backward_of_grid, setup_context=_setup_grid)
library.register("sum_grid", reference.sum_grid)
library.register("sum_unmapped", reference.sum_unmapped, "eokit.ops.tokens.triton")
