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
        names = ("eokit", "all logits") if loss == "MIL-NCE" else ("eokit", "all logits", "cross_entropy")
        found.append(Case(at, names, partial(set_up, settings, loss, backward, device), lambda name, told=told: told))
    return found


def set_up(settings: LossesSettings, loss: str, backward: bool, device: torch.device) -> Prepared:
    """Random features of length 1."""
    generator = torch.Generator(device).manual_seed(0)

    def features(rows: int) -> Tensor:
        drawn = torch.randn(rows, settings.width, generator=generator, device=device)
        return torch.nn.functional.normalize(drawn, dim=1)

    leaves, functions = LOSSES[loss](settings, features)
    plain = functions["all logits"]
    grad = torch.ones((), device=device) if backward else None

    @cache
    def truth() -> Truth:
        wide = {name: x.double() for name, x in leaves.items()}
        return Truth(make_run(plain, wide, None if grad is None else grad.double())(), make_run(plain, leaves, grad)())

    return Prepared({name: make_run(f, leaves, grad) for name, f in functions.items()}, lambda name: truth())


Features = Callable[[int], Tensor]
Made = tuple[dict[str, Tensor], dict[str, Callable[..., Tensor]]]
"""What has gradients, by name; then the contenders."""


def info_nce_case(settings: LossesSettings, features: Features) -> Made:
    """Two views of every row; most code writes their loss as a cross-entropy whose class is the row's number."""
    a, b = features(settings.rows), features(settings.rows)
    same = torch.eye(settings.rows, dtype=torch.bool, device=a.device)
    number = torch.arange(settings.rows, device=a.device)

    def usual(a: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(a @ b.T / TEMPERATURE, number)

    return {"a": a, "b": b}, {
        "eokit": partial(info_nce, temperature=TEMPERATURE),
        "all logits": partial(reference.info_nce, positives=same, temperature=TEMPERATURE),
        "cross_entropy": usual,
    }


def mil_nce_case(settings: LossesSettings, features: Features) -> Made:
    """`MODALITIES` rows of every patch, each of another block."""
    x = features(settings.rows)
    number = torch.arange(settings.rows, device=x.device)
    group, block = number // MODALITIES, number % MODALITIES
    ours = partial(mil_nce, group=group, block=block, temperature=TEMPERATURE)

    def plain(features: Tensor) -> Tensor:
        return reference.mil_nce(features, group, block, temperature=TEMPERATURE)

    return {"features": x}, {"eokit": ours, "all logits": plain}


def dino_case(settings: LossesSettings, features: Features) -> Made:
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

    def usual(student: Tensor, prototypes: Tensor) -> Tensor:
        with torch.no_grad():
            logits = teacher.to(student.dtype) @ teacher_prototypes.T.to(student.dtype)
            targets = (logits / TEACHER_TEMPERATURE).softmax(1)
        return torch.nn.functional.cross_entropy(student @ prototypes.T / TEMPERATURE, targets)

    return leaves, {"eokit": ours, "all logits": plain, "cross_entropy": usual}


LOSSES = {"InfoNCE": info_nce_case, "MIL-NCE": mil_nce_case, "DINO": dino_case}
