"""Learning rates and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eokit.training.optim import (
    autocast,
    learning_rate,
    make_optimizer,
    names_without_decay,
    set_learning_rate,
    use_bf16,
)
from eokit.training.settings import LoopSettings


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.day = nn.Embedding(5, 3)
        self.table = nn.Parameter(torch.zeros(4, 3))
        self.mask_token = nn.Parameter(torch.zeros(2, 3))
        self.vector = nn.Parameter(torch.zeros(1, 1, 3))


def test_biases_norms_tokens_and_tables_are_not_decayed():
    expected = {"linear.bias", "norm.weight", "norm.bias", "day.weight", "table", "mask_token", "vector"}
    assert names_without_decay(Named()) == expected


def test_frozen_parameters_are_not_optimised():
    model = Named()
    model.linear.requires_grad_(False)
    optimizer = make_optimizer(model, LoopSettings())
    assert not any(one is model.linear.weight for group in optimizer.param_groups for one in group["params"])


def test_a_recipe_can_slow_a_part_of_itself_down():
    model = Named()
    model.lr_scales = {"linear.": 0.1}
    settings = LoopSettings(lr=1.0, warmup=0.0)
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0, settings)
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    assert (rates[id(model.linear.weight)], rates[id(model.linear.bias)]) == (0.1, 0.1)
    assert rates[id(model.table)] == 1.0


def test_the_rate_rises_to_its_peak_and_falls_to_its_end():
    settings = LoopSettings(steps=100, warmup=0.1, lr=1.0, final_lr=0.01)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(steps):
    settings = LoopSettings(steps=steps, warmup=0.1, lr=1.0)
    assert all(0 < learning_rate(step, settings) <= 1.0 for step in range(steps))


def test_auto_precision_is_fp32_on_a_cpu():
    assert not use_bf16("auto", torch.device("cpu"))


def test_bf16_computes_products_in_bf16():
    with autocast("bf16", torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
