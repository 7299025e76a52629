"""The teacher is exactly the moving average of its student."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eokit.pretraining.ema import make_teacher, momentum_at, move_towards


def test_a_new_teacher_equals_its_student_but_shares_nothing_and_takes_no_gradient():
    student = nn.Linear(3, 2)
    teacher = make_teacher(student)
    assert torch.equal(teacher.weight, student.weight)
    assert teacher.weight.data_ptr() != student.weight.data_ptr()
    assert not any(one.requires_grad for one in teacher.parameters())
    assert not teacher.training


def test_the_teacher_moves_by_one_minus_the_momentum():
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
    expected = 0.75 * teacher.weight + 0.25 * student.weight  # powers of two: exact up to one rounding
    move_towards(teacher, student, 0.75)
    torch.testing.assert_close(teacher.weight, expected)
    assert student.weight.grad is None


def test_a_momentum_of_one_leaves_the_teacher_and_of_zero_copies_the_student():
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
    before = teacher.weight.clone()
    move_towards(teacher, student, 1.0)
    assert torch.equal(teacher.weight, before)
    move_towards(teacher, student, 0.0)
    assert torch.equal(teacher.weight, student.weight)


@pytest.mark.parametrize(("progress", "momentum"), [(0, 0.996), (0.5, 0.998), (1, 1.0), (1.2, 1.0)])
def test_the_momentum_grows_on_a_straight_line(progress, momentum):
    assert momentum_at(progress, 0.996, 1.0) == pytest.approx(momentum)
