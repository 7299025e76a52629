"""The losses tile by tile: logits are made, used and forgotten, in the forward and once more in the backward.

The products are the library's; what is done to a tile is in `tiles.py`, and for kernels of ours in `compiled.py`, on a
CPU, and `triton.py`. Tiles come in one order. The bits of gradients
depend on the number of threads only where the library's products do.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from itertools import product
from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.losses import tiles
from eokit.ops.losses.tiles import INFINITY, Pairs
from eokit.ops.wiring import refuse_second_derivative

TILE = {"cpu": (256, 2048), "cuda": (2048, 2048)}
"""Rows and columns of a tile by device.

CPU: 2 MiB of float32, which stay in its second-level cache; of 128 to 1024 rows and 1024 to 6144 columns none was
faster. CUDA: not measured. By arithmetic: 16 MiB, so that both tiles of DINO stay in the second-level cache of an A100
(40 MB), and 2048 rows, so that every multiprocessor has several to go through.
"""


def passes(x: Tensor) -> Any:
    """The module with the passes over tiles like x: kernels of ours where they take them, else torch."""
    if not library.runs_kernels(x):
        return tiles
    return import_module("eokit.ops.losses." + ("compiled" if library.takes_compiled(x) else "triton"))


def spans(rows: int, columns: int, x: Tensor) -> tuple[list[slice], list[slice]]:
    """0..rows and 0..columns in pieces of a tile on the device of x."""
    steps = TILE.get(x.device.type, TILE["cpu"])
    return tuple(  # type: ignore[return-value]
        [slice(start, min(start + step, length)) for start in range(0, length, step)]
        for length, step in zip((rows, columns), steps, strict=True)
    )


# --- InfoNCE and MIL-NCE: positives are the diagonal, a matrix, or pairs whose groups are equal -----------------------


@torch.library.custom_op("eokit::nce_forward", mutates_args=())
def nce_forward(
    a: Tensor,
    b: Tensor,
    positives: Tensor | None,
    group_a: Tensor | None,
    group_b: Tensor | None,
    block_a: Tensor | None,
    block_b: Tensor | None,
    temperature: float,
    inside: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every row (N,), its log sum over candidates, and over positives (inside) or how many there are.

    Candidates are all columns, or those with another block; inside: the sum over positives is inside the logarithm.
    With neither positives nor groups the column of the same number is the positive.
    """
    run, scaled = passes(a), a / temperature
    state = a.new_zeros(4, len(a))  # as `tiles.nce_add` says
    state[0] = -INFINITY
    if inside:
        state[2] = -INFINITY
    if positives is None and group_a is None:
        state[2], state[3] = (scaled * b).sum(1), 1.0
    pairs = Pairs(positives, group_a, group_b, block_a, block_b)
    for rows, columns, here in tiles_of(pairs, a, b):
        run.nce_add(scaled[rows] @ b[columns].T, here, state[:, rows], inside)
    sums = tiles.log_sum(state[:2])
    others = tiles.log_sum(state[2:]) if inside else state[3].clone()
    wanted = others if inside else state[2] / others.clamp(min=1)
    return torch.where(others > (-INFINITY if inside else 0), sums - wanted, 0.0), sums, others


@torch.library.custom_op("eokit::nce_backward", mutates_args=())
def nce_backward(
    grad: Tensor,
    sums: Tensor,
    others: Tensor,
    a: Tensor,
    b: Tensor,
    positives: Tensor | None,
    group_a: Tensor | None,
    group_b: Tensor | None,
    block_a: Tensor | None,
    block_b: Tensor | None,
    temperature: float,
    inside: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of a and b, from the gradient of every row's loss (N,)."""
    used = others > (-INFINITY if inside else 0)
    weight = torch.where(used, grad / temperature, 0.0)[:, None]
    # slopes of rows without positives are then exp(-inf) = 0
    sums, others = torch.where(used, sums, INFINITY), torch.where(used, others, INFINITY)
    run, scaled, weighted = passes(a), a / temperature, a * weight
    diagonal = positives is None and group_a is None
    grad_a = -b if diagonal else torch.zeros_like(a)
    grad_b = -weighted if diagonal else torch.zeros_like(b)
    pairs = Pairs(positives, group_a, group_b, block_a, block_b)
    for rows, columns, here in tiles_of(pairs, a, b):
        slopes = run.nce_slopes(scaled[rows] @ b[columns].T, here, sums[rows], others[rows], inside)
        grad_a[rows].addmm_(slopes, b[columns])
        grad_b[columns].addmm_(slopes.T, weighted[rows])
    return grad_a.mul_(weight), grad_b


def tiles_of(pairs: Pairs, a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Pairs]]:
    """The rows of a (N, D) and of b (M, D) of every tile, and what they are to each other.

    Ids are left out where no two of them can be equal, but for Triton: to ask for them would be to wait for the GPU.
    """
    positives, *ids = pairs
    rows, columns = spans(len(a), len(b), a)
    asked = not library.wants_triton()
    groups = meetings(pairs.group_rows, pairs.group_columns, rows, columns, asked)
    blocks = meetings(pairs.block_rows, pairs.block_columns, rows, columns, asked)
    for (r, own), (c, other) in product(enumerate(rows), enumerate(columns)):
        known = (ids[:2] if groups[r][c] else [None] * 2) + (ids[2:] if blocks[r][c] else [None] * 2)
        cut = [None if one is None else one[side] for one, side in zip(known, (own, other) * 2, strict=True)]
        yield own, other, Pairs(None if positives is None else positives[own, other], *cut)


def meetings(
    of_rows: Tensor | None, of_columns: Tensor | None, rows: list[slice], columns: list[slice], asked: bool
) -> list[list[bool]]:
    """[tile of rows][tile of columns]: asked, False where no id of the one can be one of the other, by their ranges."""
    if not asked or of_rows is None or of_columns is None or not (rows and columns):
        return [[True] * len(columns)] * len(rows)
    (low, high), (first, last) = extents(of_rows, rows), extents(of_columns, columns)
    return ((low[:, None] <= last) & (first <= high[:, None])).tolist()


def extents(ids: Tensor, pieces: list[slice]) -> tuple[Tensor, Tensor]:
    """The lowest and the highest id of every piece."""
    low, high = zip(*(ids[piece].aminmax() for piece in pieces), strict=True)
    return torch.stack(low), torch.stack(high)


# --- Cross-entropy over prototypes ------------------------------------------------------------------------------------


@torch.library.custom_op("eokit::dino_forward", mutates_args=())
def dino_forward(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every row (N,), and the log sums of the student's and of the teacher's logits."""
    run, scaled = passes(student), student / temperature
    teacher, center = teacher / teacher_temperature, center / teacher_temperature
    state = student.new_zeros(5, len(student))  # as `tiles.dino_add` says
    state[0] = state[2] = -INFINITY
    for rows, columns in product(*spans(len(student), len(prototypes), student)):
        scores, targets = scaled[rows] @ prototypes[columns].T, teacher[rows] @ teacher_prototypes[columns].T
        run.dino_add(scores, targets, center[columns], state[:, rows])
    sums, teacher_sums = tiles.log_sum(state[:2]), tiles.log_sum(state[2:4])
    return sums - state[4] / state[3], sums, teacher_sums


@torch.library.custom_op("eokit::dino_backward", mutates_args=())
def dino_backward(
    grad: Tensor,
    sums: Tensor,
    teacher_sums: Tensor,
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    """The gradients of student (N, D) and prototypes (K, D), from the gradient of every row's loss."""
    grad_student, grad_prototypes = torch.zeros_like(student), torch.zeros_like(prototypes)
    weight = (grad / temperature)[:, None]
    run, scaled, weighted = passes(student), student / temperature, student * weight
    teacher, center = teacher / teacher_temperature, center / teacher_temperature
    for rows, columns in product(*spans(len(student), len(prototypes), student)):
        scores, targets = scaled[rows] @ prototypes[columns].T, teacher[rows] @ teacher_prototypes[columns].T
        slopes = run.dino_slopes(scores, targets, center[columns], sums[rows], teacher_sums[rows])
        grad_student[rows].addmm_(slopes, prototypes[columns])
        grad_prototypes[columns].addmm_(slopes.T, weighted[rows])
    return grad_student.mul_(weight), grad_prototypes


# --- What torch must know of both: shapes, and that a backward takes the two sums, the inputs and the options ---------


def _differentiable(forward: Any, backward: Any, public: str) -> None:
    """forward: (two tensors with a gradient, others, two options) -> (losses, two sums to keep), all of the rows (N,).

    backward: (gradient of the losses, the two sums, what forward was given) -> gradients of its first two tensors.
    """

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, first, second = inputs
        ctx.options = first, second
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:], *tensors)

    def gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grads = backward(grad.contiguous(), *ctx.saved_tensors, *ctx.options)
        return *grads, *[None] * (len(ctx.needs_input_grad) - 2)

    forward.register_fake(lambda rows, *_: tuple(rows.new_empty(len(rows)) for _ in range(3)))
    backward.register_fake(lambda grad, sums, others, a, b, *_: (torch.empty_like(a), torch.empty_like(b)))
    forward.register_autograd(gradient, setup_context=setup)
    refuse_second_derivative(backward._qualname.removeprefix("eokit::"), public)
    for op, device in product((forward, backward), ("cpu", "cuda")):
        op.register_autocast(device, torch.float32)  # what they are given already: autocast stays outside


_differentiable(nce_forward, nce_backward, "info_nce or mil_nce")
_differentiable(dino_forward, dino_backward, "dino_cross_entropy")
