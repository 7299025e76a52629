"""The losses tile by tile: logits are made, used and forgotten, in the forward and once more in the backward.

The products are torch's own; a tile of logits stays in a CPU's second-level cache, and what is done to it is done in
place. Tiles come in one order, so that results do not depend on anything else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from eokit.ops.wiring import refuse_second_derivative

ROWS, COLUMNS = 256, 2048
"""Logits of a tile: 2 MiB of float32. Of 128 to 1024 rows and 1024 to 6144 columns none was faster."""

INFINITY = float("inf")


class Running:
    """log sum exp of columns that come tile by tile, one for each row."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.highest = like.new_full((rows,), -INFINITY)
        self.sum = like.new_zeros(rows)

    def add(self, scores: Tensor) -> Tensor:
        """scores: (rows, columns), -inf for what does not count; they become, in place, exp(scores - shift).

        Returns what earlier sums relative to the shift are to be multiplied with, as it rose: (rows,).
        """
        highest = torch.maximum(self.highest, scores.amax(1))
        shift = highest.clamp(min=torch.finfo(highest.dtype).min)  # rows without anything so far: exp(-inf - shift) = 0
        decay = (self.highest - shift).exp_()
        self.sum = self.sum * decay + scores.sub_(shift[:, None]).exp_().sum(1)
        self.highest = highest
        return decay

    def log(self) -> Tensor:
        """(rows,), -inf where nothing counted."""
        return self.sum.log() + self.highest.clamp(min=torch.finfo(self.highest.dtype).min)


def spans(length: int, step: int) -> Iterator[slice]:
    """0..length in pieces of `step`."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


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
    losses, sums, others = (a.new_empty(len(a)) for _ in range(3))
    scaled = a / temperature
    diagonal = positives is None and group_a is None
    blocks, groups = meetings(block_a, block_b), meetings(group_a, group_b)
    for r, rows in enumerate(spans(len(a), ROWS)):
        every, near = Running(rows.stop - rows.start, a), Running(rows.stop - rows.start, a)
        total = (scaled[rows] * b[rows]).sum(1) if diagonal else a.new_zeros(rows.stop - rows.start)
        count = torch.full_like(total, float(diagonal))
        for c, columns in enumerate(spans(len(b), COLUMNS)):
            scores = scores_of(scaled, b, block_a if blocks[r][c] else None, block_b, rows, columns)
            if positives is not None or groups[r][c]:
                positive = positives_of(positives, group_a, group_b, rows, columns)
                if inside:
                    near.add(torch.where(positive, scores, -INFINITY))
                else:
                    total += torch.where(positive, scores, 0.0).sum(1)
                    count += positive.sum(1)
            every.add(scores)
        sums[rows] = every.log()
        others[rows] = near.log() if inside else count
        used = others[rows] > (-INFINITY if inside else 0)
        losses[rows] = torch.where(used, sums[rows] - (others[rows] if inside else total / count.clamp(min=1)), 0.0)
    return losses, sums, others


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
    sums = torch.where(used, sums, INFINITY)[:, None]  # slopes of rows without positives are then exp(-inf) = 0
    others = torch.where(used, others, INFINITY)[:, None]
    scaled, weighted = a / temperature, a * weight
    diagonal = positives is None and group_a is None
    grad_a = -b if diagonal else torch.zeros_like(a)
    grad_b = -weighted if diagonal else torch.zeros_like(b)
    blocks, groups = meetings(block_a, block_b), meetings(group_a, group_b)
    for r, rows in enumerate(spans(len(a), ROWS)):
        for c, columns in enumerate(spans(len(b), COLUMNS)):
            scores = scores_of(scaled, b, block_a if blocks[r][c] else None, block_b, rows, columns)
            wanted = None
            if positives is not None or groups[r][c]:
                positive = positives_of(positives, group_a, group_b, rows, columns)
                if inside:
                    wanted = torch.where(positive, scores, -INFINITY).sub_(others[rows]).exp_()
                else:
                    wanted = positive / others[rows]
            slope = scores.sub_(sums[rows]).exp_()
            if wanted is not None:
                slope -= wanted
            grad_a[rows].addmm_(slope, b[columns])
            grad_b[columns].addmm_(slope.T, weighted[rows])
    return grad_a.mul_(weight), grad_b


def meetings(of_rows: Tensor | None, of_columns: Tensor | None) -> list[list[bool]] | defaultdict[int, Any]:
    """[tile of rows][tile of columns]: False where no id of the one can be one of the other, by their ranges."""
    if of_rows is None or of_columns is None:
        return defaultdict(partial(defaultdict, bool))
    (low, high), (first, last) = extents(of_rows, ROWS), extents(of_columns, COLUMNS)
    return ((low[:, None] <= last) & (first <= high[:, None])).tolist()


def extents(ids: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest of every `step` ids."""
    parts = [one.aminmax() for one in ids.split(step)] if len(ids) else []
    return tuple(torch.stack(x) if x else ids for x in ([one[i] for one in parts] for i in (0, 1)))  # type: ignore[return-value]


def scores_of(
    scaled: Tensor, b: Tensor, block_a: Tensor | None, block_b: Tensor | None, rows: slice, columns: slice
) -> Tensor:
    """The logits (rows, columns) of scaled (N, D) and b (M, D), -inf where the blocks are equal: no candidate."""
    scores = scaled[rows] @ b[columns].T
    if block_a is not None and block_b is not None:
        scores.masked_fill_(block_a[rows, None] == block_b[columns], -INFINITY)
    return scores


def positives_of(
    positives: Tensor | None, group_a: Tensor | None, group_b: Tensor | None, rows: slice, columns: slice
) -> Tensor:
    """Which of the candidates (rows, columns) are positives."""
    if positives is not None:
        return positives[rows, columns]
    assert group_a is not None
    assert group_b is not None
    return group_a[rows, None] == group_b[columns]


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
    losses, sums, teacher_sums = (student.new_empty(len(student)) for _ in range(3))
    scaled = student / temperature
    for rows in spans(len(student), ROWS):
        mine, theirs = (Running(rows.stop - rows.start, student) for _ in range(2))
        cross = student.new_zeros(rows.stop - rows.start)  # sum of exp(target) score, relative to theirs.highest
        for columns in spans(len(prototypes), COLUMNS):
            scores = scaled[rows] @ prototypes[columns].T
            targets = _targets(teacher[rows], teacher_prototypes[columns], center[columns], teacher_temperature)
            cross = cross * theirs.add(targets) + targets.mul_(scores).sum(1)
            mine.add(scores)
        sums[rows], teacher_sums[rows] = mine.log(), theirs.log()
        losses[rows] = sums[rows] - cross / theirs.sum
    return losses, sums, teacher_sums


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
    scaled, weighted = student / temperature, student * weight
    for rows in spans(len(student), ROWS):
        for columns in spans(len(prototypes), COLUMNS):
            scores = scaled[rows] @ prototypes[columns].T
            targets = _targets(teacher[rows], teacher_prototypes[columns], center[columns], teacher_temperature)
            slope = scores.sub_(sums[rows, None]).exp_()
            slope -= targets.sub_(teacher_sums[rows, None]).exp_()
            grad_student[rows].addmm_(slope, prototypes[columns])
            grad_prototypes[columns].addmm_(slope.T, weighted[rows])
    return grad_student.mul_(weight), grad_prototypes


def _targets(teacher: Tensor, prototypes: Tensor, center: Tensor, temperature: float) -> Tensor:
    return (teacher @ prototypes.T).sub_(center).div_(temperature)


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
