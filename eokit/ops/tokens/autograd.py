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


def _wide(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(*shape, dtype=torch.promote_types(like.dtype, torch.float32))


def _fake_sum(rows: Tensor, map: Tensor) -> Tensor:
    return _wide(rows, rows.shape[-1])


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
    to_source: Any = None
    to_fill: Any = None
    to_positions: Any = None
    if needs_positions and _in_one_pass(ctx, grad, map if ctx.by_output else back):
        if ctx.by_output:
            to_source, to_fill, to_positions = torch.ops.eokit.scatter_gradients(grad, map, back)
        else:
            to_source, to_positions = torch.ops.eokit.gather_gradients(grad, back, map)
    else:
        if needs_source or (needs_positions and not ctx.by_output):
            to_source = ops.map_rows(grad, back, map, None, None, False)
        if needs_fill:
            to_fill = ops.sum_unmapped(grad, map)
        if needs_positions:
            to_positions = grad if ctx.by_output else to_source
            if len(ctx.positions_shape) == 2:
                to_positions = _over_samples(to_positions, *ctx.positions_shape)
    return (
        to_source if needs_source else None,
        None,
        None,
        to_fill.to(ctx.fill_dtype) if needs_fill else None,
        to_positions.to(grad.dtype) if needs_positions else None,
        None,
    )


def _in_one_pass(ctx: Any, grad: Tensor, places: Tensor) -> bool:
    """Whether one pass over `grad` makes all gradients: with positions that the batch shares.

    The compiled kernels do that. Not so with a ragged index, whose samples follow each other in a row, with scattered
    tokens that are narrow, as finding rows one by one costs more than reading them again, and with gathered rows that
    are filled, which no public op asks for.
    """
    shared = len(ctx.positions_shape) == 2 and places.shape[1] == ctx.positions_shape[0]
    gains = grad.shape[-1] * grad.element_size() > 256 if ctx.by_output else ctx.fill_dtype is None
    return shared and gains and library.takes_compiled(grad)


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


def _fake_gather_gradients(grad: Tensor, inverse: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    dim = grad.shape[-1]
    return grad.new_empty(*inverse.shape, dim), _wide(grad, inverse.shape[1], dim)


def _fake_scatter_gradients(grad: Tensor, inverse: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dim = grad.shape[-1]
    return grad.new_empty(*index.shape, dim), _wide(grad, dim), _wide(grad, grad.shape[1], dim)


def _setup_gradients(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    grad, inverse, index = inputs
    ctx.save_for_backward(inverse, index)
    ctx.dtype = grad.dtype


def _backward_of_gather_gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
    inverse, index = ctx.saved_tensors
    x, positions = (grad.to(ctx.dtype).contiguous() for grad in grads)
    return torch.ops.eokit.map_rows(x, index, inverse, None, positions, False), None, None


def _backward_of_scatter_gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
    inverse, index = ctx.saved_tensors
    visible, mask_token, positions = (grad.to(ctx.dtype).contiguous() for grad in grads)
    return torch.ops.eokit.map_rows(visible, inverse, index, mask_token, positions, True), None, None


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
torch.library.register_fake("eokit::gather_gradients", _fake_gather_gradients)
torch.library.register_autograd(
    "eokit::gather_gradients", _backward_of_gather_gradients, setup_context=_setup_gradients
)
library.register("gather_gradients", reference.gather_gradients)
torch.library.register_fake("eokit::scatter_gradients", _fake_scatter_gradients)
torch.library.register_autograd(
    "eokit::scatter_gradients", _backward_of_scatter_gradients, setup_context=_setup_gradients
)
library.register("scatter_gradients", reference.scatter_gradients)
library.register("sum_unmapped", reference.sum_unmapped, "eokit.ops.tokens.triton")
