"""The global mean, alone; across processes it is held by the tests of training."""

from __future__ import annotations

import torch

from eokit.nn.reduce import global_mean


def test_one_process_divides_the_sum_by_the_count():
    assert global_mean(torch.tensor(6.0), torch.tensor(4)).item() == 1.5


def test_nothing_counted_gives_zero_with_a_gradient():
    total = torch.zeros((), requires_grad=True)
    mean = global_mean(total, torch.tensor(0.0))
    mean.backward()
    assert mean.item() == 0
    assert torch.isfinite(total.grad)


def test_the_count_takes_no_gradient():
    total, count = torch.tensor(6.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    global_mean(total, count).backward()
    assert total.grad.item() == 0.25
    assert count.grad is None
