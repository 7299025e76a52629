"""`ops.row_mlp`, the projector of AnySat's pixel-dates, against the same layer by layer."""

from __future__ import annotations

import itertools
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from eokit.nn.device import pick_device
from eokit.ops import row_mlp
from eokit.ops.row_mlp import reference
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Truth, Work, make_run, passes
from eokit_bench.registry import MlpSettings

WIDTHS = (10, 96, 384, 768, 1536, 768)
"""Of the projector of Sentinel-2 in AnySat base (Astruc et al. 2024, arXiv 2412.14123)."""
GROUPS, EPSILON = 4, 1e-5
FAR = 8.0
"""Standard deviations that group norm's results never reach in practice."""
CONTENDERS = {"eokit": row_mlp, "layer by layer": reference.row_mlp}


def cases(settings: MlpSettings) -> list[Case]:
    """By dtype; forward, then forward + backward."""
    device, found = pick_device(settings.device), []
    refuse_if_too_large(4 * 8 * settings.rows * sum(WIDTHS), device, "--rows")
    for dtype, backward in itertools.product(settings.dtype, passes(settings.backward)):
        at: dict[str, Any] = {"rows": settings.rows, "widths": "-".join(map(str, WIDTHS)), "dtype": dtype}
        at["pass"] = PASSES[backward]
        prepare = partial(set_up, settings.rows, getattr(torch, dtype), backward, device)
        told = work(settings.rows, getattr(torch, dtype).itemsize, backward)
        found.append(Case(at, tuple(CONTENDERS), prepare, lambda name, told=told: told))
    return found


def work(rows: int, itemsize: int, backward: bool) -> Work:
    """Rows read and results written; back, both again with their gradients. A product forward, two back, a weight."""
    weights = sum(a * b for a, b in itertools.pairwise(WIDTHS))
    ends = rows * (WIDTHS[0] + WIDTHS[-1]) * itemsize
    return Work(ends * (2 if backward else 1), 2 * rows * weights * (3 if backward else 1))


def set_up(rows: int, dtype: torch.dtype, backward: bool, device: torch.device) -> Prepared:
    """x (R, C) and layers of (weight, bias, gain, shift); products of about the size of their inputs.

    Shifts are so large that a feature is on or off in every row: near zero the derivative of ReLU is a matter of
    rounding, and gradients could not be compared with float64.
    """
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    leaves = {"x": draw(rows, WIDTHS[0]).to(dtype)}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        weight, bias, gain = draw(outputs, inputs) * (2 / inputs) ** 0.5, draw(outputs) / 10, 1 + draw(outputs) / 10
        layer = weight, bias, gain, FAR * draw(outputs).sign()
        leaves |= {f"{name}{number}": x.to(dtype) for name, x in zip(PARTS, layer, strict=True)}
    grad = draw(rows, WIDTHS[-1]).to(dtype) if backward else None

    @cache
    def truth() -> Truth:
        wide = {name: x.double() for name, x in leaves.items()}
        plain = partial(through, reference.row_mlp)
        return Truth(make_run(plain, wide, None if grad is None else grad.double())(), make_run(plain, leaves, grad)())

    runs = {name: make_run(partial(through, mlp), leaves, grad) for name, mlp in CONTENDERS.items()}
    return Prepared(runs, lambda name: truth())


PARTS = ("weight", "bias", "gain", "shift")


def through(mlp: Any, x: Tensor, **parameters: Tensor) -> Tensor:
    """`mlp` on x with its layers put together of the parameters by name."""
    layers = [[parameters[f"{name}{number}"] for name in PARTS] for number in range(len(WIDTHS) - 1)]
    return mlp(x, layers, groups=GROUPS, epsilon=EPSILON)
