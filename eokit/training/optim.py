"""The optimiser, its learning-rate schedule and its precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from eokit.training.settings import LoopSettings

TABLES = ("table", "position", "positions", "token", "query", "queries")
"""Last words of the names of learned tables and tokens, which weight decay would only pull towards zero."""


def make_optimizer(recipe: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient, in groups: with and without weight decay, fast and slow.

    A recipe may have `lr_scales`, {prefix of parameter names: factor on the learning rate}; others have factor 1.
    """
    plain = names_without_decay(recipe)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, one in recipe.named_parameters():
        if one.requires_grad:
            decay = 0.0 if name in plain else settings.weight_decay
            groups.setdefault((decay, _scale(name, getattr(recipe, "lr_scales", {}))), []).append(one)
    rows = [{"params": some, "weight_decay": decay, "lr_scale": scale} for (decay, scale), some in groups.items()]
    return torch.optim.AdamW(rows, lr=settings.lr, fused=True)


def _scale(name: str, scales: Mapping[str, float]) -> float:
    return next((scale for prefix, scale in scales.items() if name.startswith(prefix)), 1.0)


def names_without_decay(recipe: nn.Module) -> set[str]:
    """Names of biases, norms, tokens and position tables: whatever has no two dimensions to multiply with."""
    embeddings = {id(one.weight) for one in recipe.modules() if isinstance(one, nn.Embedding)}
    return {
        name
        for name, one in recipe.named_parameters()
        if sum(size > 1 for size in one.shape) < 2
        or id(one) in embeddings
        or name.rpartition(".")[2].rpartition("_")[2] in TABLES
    }


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Rate of step number `step` (from 0): linear warm-up to `lr`, then half a cosine, `final_lr` at the last step."""
    warm = round(settings.warmup * settings.steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - 1 - warm)
    return settings.final_lr + (settings.lr - settings.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, settings: LoopSettings) -> float:
    """Give every group the rate of `step`, times the group's factor; returns the rate."""
    rate = learning_rate(step, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
    return rate


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward passes run under bf16 autocast; `auto` means: on CUDA devices that have it."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass at `precision` (auto, fp32, bf16)."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if use_bf16(precision, device) else nullcontext()
