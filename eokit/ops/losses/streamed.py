"""The losses tile by tile: logits are made, used and forgotten, in the forward and once more in the backward.

The work is that of the matrix products, which are torch's own; a tile of logits stays in a CPU's second-level cache.
Tiles come in one order, so that results do not depend on anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
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

    def add(self, scores: Tensor) -> None:
        """scores: (rows, columns), -inf for what does not count."""
        highest = torch.maximum(self.highest, scores.amax(1))
        shift = highest.clamp(min=torch.finfo(highest.dtype).min)  # rows without anything so far: exp(-inf - shift) = 0
        self.sum = self.sum * (self.highest - shift).exp() + (scores - shift[:, None]).exp_().sum(1)
        self.highest = highest

    def log(self) -> Tensor:
        """(rows,), -inf where nothing counted."""
        return self.sum.log() + self.highest.clamp(min=torch.finfo(self.highest.dtype).min)


def spans(length: int, step: int) -> Iterator[slice]:
    """0..length in pieces of `step`."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


# --- InfoNCE and MIL-NCE: positives are given as a matrix, or as pairs whose groups are equal -------------------------


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
    """
    losses, sums, others = (a.new_empty(len(a)) for _ in range(3))
    for rows in spans(len(a), ROWS):
        every, near = Running(rows.stop - rows.start, a), Running(rows.stop - rows.start, a)
        total, count = (a.new_zeros(rows.stop - rows.start) for _ in range(2))
        for columns in spans(len(b), COLUMNS):
            scores, positive = _tile(
                a, b, positives, (group_a, group_b), (block_a, block_b), temperature, rows, columns
            )
            every.add(scores)
            if inside:
                near.add(scores.masked_fill(~positive, -INFINITY))
            else:
                total += scores.masked_fill(~positive, 0.0).sum(1)
                count += positive.sum(1)
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
    grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
    used = others > (-INFINITY if inside else 0)
    weight = torch.where(used, grad / temperature, 0.0)[:, None]
    sums = torch.where(used, sums, 0.0)[:, None]
    others = torch.where(used, others, 1.0)[:, None]
    for rows in spans(len(a), ROWS):
        for columns in spans(len(b), COLUMNS):
            scores, positive = _tile(
                a, b, positives, (group_a, group_b), (block_a, block_b), temperature, rows, columns
            )
            wanted = (scores - others[rows]).exp_() if inside else 1 / others[rows]
            slope = (scores - sums[rows]).exp_()
            slope -= torch.where(positive, wanted, 0.0)
            slope *= weight[rows]
            grad_a[rows] += slope @ b[columns]
            grad_b[columns] += slope.T @ a[rows]
    return grad_a, grad_b


def _tile(
    a: Tensor,
    b: Tensor,
    positives: Tensor | None,
    groups: tuple[Tensor | None, Tensor | None],
    blocks: tuple[Tensor | None, Tensor | None],
    temperature: float,
    rows: slice,
    columns: slice,
) -> tuple[Tensor, Tensor]:
    """Scores (rows, columns), -inf for what is no candidate, and which of them are positives."""
    scores = (a[rows] @ b[columns].T).div_(temperature)
    same = positives[rows, columns] if positives is not None else _equal(groups, rows, columns)
    if blocks[0] is not None:
        near = _equal(blocks, rows, columns)
        scores.masked_fill_(near, -INFINITY)
        same = same & ~near
    return scores, same


def _equal(ids: tuple[Tensor | None, Tensor | None], rows: slice, columns: slice) -> Tensor:
    of_rows, of_columns = ids
    assert of_rows is not None
    assert of_columns is not None
    return of_rows[rows, None] == of_columns[columns]


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
    for rows in spans(len(student), ROWS):
        mine, theirs = (Running(rows.stop - rows.start, student) for _ in range(2))
        cross = student.new_zeros(rows.stop - rows.start)  # sum of exp(target) score, relative to theirs.highest
        for columns in spans(len(prototypes), COLUMNS):
            scores = (student[rows] @ prototypes[columns].T).div_(temperature)
            targets = _targets(teacher[rows], teacher_prototypes[columns], center[columns], teacher_temperature)
            before = theirs.highest
            mine.add(scores)
            theirs.add(targets)
            shares = (targets - theirs.highest[:, None]).exp_()
            cross = cross * (before - theirs.highest).exp() + (shares * scores).sum(1)
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
    for rows in spans(len(student), ROWS):
        for columns in spans(len(prototypes), COLUMNS):
            scores = (student[rows] @ prototypes[columns].T).div_(temperature)
            targets = _targets(teacher[rows], teacher_prototypes[columns], center[columns], teacher_temperature)
            slope = (scores - sums[rows, None]).exp_()
            slope -= (targets - teacher_sums[rows, None]).exp_()
            slope *= weight[rows]
            grad_student[rows] += slope @ prototypes[columns]
            grad_prototypes[columns] += slope.T @ student[rows]
    return grad_student, grad_prototypes


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
