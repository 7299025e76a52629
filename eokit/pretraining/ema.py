"""A teacher that is the moving average of its student."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def make_teacher(student: ModuleT) -> ModuleT:
    """A copy of `student` that takes no gradient; keep it in eval mode and move it with `move_towards`."""
    return copy.deepcopy(student).eval().requires_grad_(False)


def momentum_at(progress: float, start: float, end: float) -> float:
    """Momentum at `progress` (0 at the first step, 1 at the last), on a straight line (as I-JEPA)."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


@torch.no_grad()
def move_towards(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher = momentum * teacher + (1 - momentum) * student, parameter by parameter, in place."""
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(ours, theirs, 1.0 - momentum)
