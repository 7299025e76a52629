"""The streamed contrastive losses against the same with every logit in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from eokit.nn.device import pick_device
from eokit.ops import dino_cross_entropy, info_nce, mil_nce
from eokit.ops.losses import reference
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Truth, Work, make_run, passes
from eokit_bench.registry import LossesSettings

TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
MODALITIES = 3
"""Rows of a patch in MIL-NCE."""
CONTENDERS = ("eokit", "all logits")
LOGITS_HELD = 5
"""float64 matrices of logits that the reference holds at once, about."""


def cases(settings: LossesSettings) -> list[Case]:
    """By loss; forward, then forward + backward."""
    device, found = pick_device(settings.device), []
    for loss, backward in itertools.product(LOSSES, passes(settings.backward)):
        columns = settings.prototypes if loss == "DINO" else settings.rows
        refuse_if_too_large(8 * LOGITS_HELD * settings.rows * columns, device, "--rows")
        at: dict[str, Any] = {"loss": loss, "rows": settings.rows, "columns": columns, "D": settings.width}
        at |= {"dtype": "float32", "pass": PASSES[backward]}
        # Of the logits: one product forward; back one again, and one for either side. The teacher's have no gradient.
        products = (2 if loss == "DINO" else 1) + 3 * backward
        told = Work(None, 2 * products * settings.rows * columns * settings.width)
        found.append(
            Case(at, CONTENDERS, partial(set_up, settings, loss, backward, device), lambda name, told=told: told)
        )
    return found


def set_up(settings: LossesSettings, loss: str, backward: bool, device: torch.device) -> Prepared:
    """Random features of length 1."""
    generator = torch.Generator(device).manual_seed(0)

    def features(rows: int) -> Tensor:
        drawn = torch.randn(rows, settings.width, generator=generator, device=device)
        return torch.nn.functional.normalize(drawn, dim=1)

    leaves, ours, plain = LOSSES[loss](settings, features)
    grad = torch.ones((), device=device) if backward else None

    @cache
    def truth() -> Truth:
        wide = {name: x.double() for name, x in leaves.items()}
        return Truth(make_run(plain, wide, None if grad is None else grad.double())(), make_run(plain, leaves, grad)())

    runs = {name: make_run(function, leaves, grad) for name, function in zip(CONTENDERS, (ours, plain), strict=True)}
    return Prepared(runs, lambda name: truth())


Features = Callable[[int], Tensor]
Loss = Callable[..., Tensor]


def info_nce_case(settings: LossesSettings, features: Features) -> tuple[dict[str, Tensor], Loss, Loss]:
    """Two views of every row."""
    a, b = features(settings.rows), features(settings.rows)
    same = torch.eye(settings.rows, dtype=torch.bool, device=a.device)
    plain = partial(reference.info_nce, positives=same, temperature=TEMPERATURE)
    return {"a": a, "b": b}, partial(info_nce, temperature=TEMPERATURE), plain


def mil_nce_case(settings: LossesSettings, features: Features) -> tuple[dict[str, Tensor], Loss, Loss]:
    """`MODALITIES` rows of every patch, each of another block."""
    x = features(settings.rows)
    number = torch.arange(settings.rows, device=x.device)
    group, block = number // MODALITIES, number % MODALITIES
    ours = partial(mil_nce, group=group, block=block, temperature=TEMPERATURE)

    def plain(features: Tensor) -> Tensor:
        return reference.mil_nce(features, group, block, temperature=TEMPERATURE)

    return {"features": x}, ours, plain


def dino_case(settings: LossesSettings, features: Features) -> tuple[dict[str, Tensor], Loss, Loss]:
    """The teacher is another network of the same width."""
    leaves = {"student": features(settings.rows), "prototypes": features(settings.prototypes)}
    teacher, teacher_prototypes = features(settings.rows), features(settings.prototypes)

    def ours(student: Tensor, prototypes: Tensor) -> Tensor:
        given = student, prototypes, teacher, teacher_prototypes
        return dino_cross_entropy(*given, temperature=TEMPERATURE, teacher_temperature=TEACHER_TEMPERATURE)

    def plain(student: Tensor, prototypes: Tensor) -> Tensor:
        center = student.new_zeros(len(prototypes))
        given = student, prototypes, teacher.to(student.dtype), teacher_prototypes.to(student.dtype), center
        return reference.dino_cross_entropy(*given, temperature=TEMPERATURE, teacher_temperature=TEACHER_TEMPERATURE)

    return leaves, ours, plain


LOSSES = {"InfoNCE": info_nce_case, "MIL-NCE": mil_nce_case, "DINO": dino_case}
