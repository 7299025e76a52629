"""A step of JEPA pretraining, forward and backward on the real model, with attention of eokit and of torch.

Series, masks and weights are random. What the optimiser does is left out: it is the same for both. How long a run waits
for its data is measured by benchmarks/training.py.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from eokit.data.sample import Batch
from eokit.errors import UsageError
from eokit.models.cropsts import PRESETS, build
from eokit.nn.device import pick_device
from eokit.ops import use_backend
from eokit.pretraining.jepa import JEPA
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import Case, Prepared, Results, Truth, Work
from eokit_bench.registry import TrainStepSettings
from eokit_bench.sequence import WIDTHS_HELD, series

CONTENDERS = {"eokit": None, "SDPA": "sdpa"}
"""Name -> backend of eokit.ops."""


def cases(settings: TrainStepSettings) -> list[Case]:
    """By dtype and length."""
    if settings.preset not in PRESETS:
        raise UsageError(f"--preset {settings.preset}: CropSTS comes as {', '.join(PRESETS)}")
    device, found = pick_device(settings.device), []
    with torch.device("meta"):
        model = build({**PRESETS[settings.preset], "drop_path": 0.0})
    if settings.size % model.patch_size:
        raise UsageError(
            f"--size {settings.size} is no multiple of {model.patch_size} px, the patches of {settings.preset}"
        )
    places = (settings.size // model.patch_size) ** 2
    for dtype, dates in itertools.product(settings.dtype, settings.seq_len):
        tokens = settings.batch * dates * places
        refuse_if_too_large(
            4 * WIDTHS_HELD * tokens * model.width * model.config.depth, device, "--seq-len, --size, --batch"
        )
        at: dict[str, Any] = {"preset": settings.preset, "T": dates, "N": places, "size": settings.size}
        at |= {"B": settings.batch, "dtype": dtype, "pass": "forward + backward"}
        # The student forward and back, the teacher forward; the predictor is not counted.
        flops = 4 * model.flops(settings.batch, dates, settings.size, settings.size)
        prepare = partial(set_up, settings, dates, getattr(torch, dtype), device)
        found.append(Case(at, tuple(CONTENDERS), prepare, lambda name, flops=flops: Work(None, flops)))
    return found


def set_up(settings: TrainStepSettings, dates: int, dtype: torch.dtype, device: torch.device) -> Prepared:
    """One recipe and one batch for both."""
    torch.manual_seed(0)
    recipe = JEPA(build({**PRESETS[settings.preset], "drop_path": 0.0})).to(device).train()
    bands = recipe.encoder.config.modalities["s2"]
    values = torch.randn(settings.batch, dates, bands, settings.size, settings.size, device=device)
    edge = settings.size // recipe.encoder.patch_size
    masked = torch.rand(settings.batch, edge, edge, device=device) < 0.5
    masked[:, 0, 0], masked[:, -1, -1] = True, False
    batch = with_masks(series(values), masked)

    @cache
    def truth() -> Truth:
        wide = with_masks(series(values.double()), masked)
        exact = step(copy.deepcopy(recipe).double(), wide, torch.float64, "sdpa")
        return Truth(exact, step(recipe, batch, dtype, "sdpa"), computed=dtype)

    runs = {name: partial(step, recipe, batch, dtype, backend) for name, backend in CONTENDERS.items()}
    return Prepared(runs, lambda name: truth())


def with_masks(batch: Batch, masked: torch.Tensor) -> Batch:
    return Batch(batch.series, batch.where, {"masked": masked})


def step(recipe: nn.Module, batch: Batch, dtype: torch.dtype, backend: str | None) -> Results:
    """The loss, and the gradients of all weights."""
    weights = [weight for weight in recipe.parameters() if weight.requires_grad]
    half = dtype in (torch.bfloat16, torch.float16)
    device = weights[0].device.type
    with use_backend(backend):
        with torch.autocast(device, dtype) if half else contextlib.nullcontext():
            loss = recipe(batch)["loss"]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return {"loss": loss.detach(), "grad": torch.cat([one.flatten() for one in gradients if one is not None])}
