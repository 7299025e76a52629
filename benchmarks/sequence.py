"""CropSTS over the number of dates, decoupled against joint attention: section 4.5 of its paper, on the real model.

After Yan, Gu, Chen, "CropSTS", Remote Sensing 2025, 17(14), 2481: latency, throughput, peak memory and FLOPs. The
weights are random, and so are the series. One model is timed against the other; each is set against itself in float64.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eokit.data.sample import Batch, Series, Where
from eokit.errors import UsageError
from eokit.models.base import Encoder
from eokit.models.cropsts import PRESETS, build
from eokit.nn.device import pick_device
from eokit.ops import use_backend
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Results, Run, Truth, Work, passes
from eokit_bench.plot import draw_lines, rows_by_pass, subject
from eokit_bench.registry import SequenceSettings
from eokit_bench.report import Report

ATTENTIONS = ("decoupled", "joint")
WIDTHS_HELD = 40
"""Widths of float32 that a block keeps of a token for its gradient, about: tells what certainly does not fit."""
WIDTHS_PASSING = 8
"""The same for a forward alone, where one block after the other needs them."""
DAYS_BETWEEN = 2
FIRST_DAY = 17_800  # 2018-09-26


@dataclass(frozen=True)
class Setting:
    """One case."""

    dates: int
    preset: str
    size: int
    batch: int
    dtype: torch.dtype
    backward: bool


def cases(settings: SequenceSettings) -> list[Case]:
    """By dtype and length; forward, then forward + backward."""
    if settings.preset not in PRESETS:
        raise UsageError(f"--preset {settings.preset}: CropSTS comes as {', '.join(PRESETS)}")
    device = pick_device(settings.device)
    found = []
    for dtype, dates, backward in itertools.product(settings.dtype, settings.seq_len, passes(settings.backward)):
        one = Setting(dates, settings.preset, settings.size, settings.batch, getattr(torch, dtype), backward)
        found.append(make_case(one, device))
    return found


def make_case(one: Setting, device: torch.device) -> Case:
    with torch.device("meta"):
        models = {name: make_model(name, one.preset) for name in ATTENTIONS}
    model = models["joint"]
    if one.size % model.patch_size:
        raise UsageError(f"--size {one.size} is no multiple of the {model.patch_size} px patches of {one.preset}")
    tokens = one.batch * one.dates * (one.size // model.patch_size) ** 2
    widths = WIDTHS_HELD * len(model.trunk.blocks) if one.backward else WIDTHS_PASSING
    refuse_if_too_large(4 * widths * tokens * model.width, device, "--seq-len, --size, --batch")
    flops = {name: one_model.flops(one.batch, one.dates, one.size, one.size) for name, one_model in models.items()}
    at = {"preset": one.preset, "T": one.dates, "N": tokens // one.batch // one.dates, "size": one.size, "B": one.batch}
    at |= {"dtype": str(one.dtype).removeprefix("torch."), "pass": PASSES[one.backward]}
    # The backward of a product is two products of its size.
    return Case(
        at, ATTENTIONS, partial(set_up, one, device), lambda name: Work(None, flops[name] * (1 + 2 * one.backward))
    )


def set_up(one: Setting, device: torch.device) -> Prepared:
    """Both models with the same weights, one batch of series, and a gradient that comes back to the patches."""
    torch.manual_seed(0)
    models = {"decoupled": make_model("decoupled", one.preset).to(device)}
    models["joint"] = make_model("joint", one.preset).to(device)
    models["joint"].load_state_dict(models["decoupled"].state_dict())
    bands = models["joint"].config.modalities["s2"]
    values = torch.randn(one.batch, one.dates, bands, one.size, one.size, device=device)
    with torch.no_grad():
        grad = torch.randn_like(models["decoupled"](series(values[:, :1])).patch)
    runs = {name: make_run(model, values, grad, one) for name, model in models.items()}

    @cache
    def truth(name: str) -> Truth:
        with use_backend("sdpa"):  # torch's own; in float64 exact, and without all pairs in memory
            own = make_run(models[name], values, grad, one)()
            exact = make_run(copy.deepcopy(models[name]).double(), values.double(), grad.double(), one)()
        return Truth(exact, own, computed=one.dtype)

    return Prepared(runs, truth)


def make_model(name: str, preset: str) -> Any:
    return build({**PRESETS[preset], "attention": name, "drop_path": 0.0}).eval()


def make_run(model: Encoder, values: Tensor, grad: Tensor, one: Setting) -> Run:
    """Features of the patches; with a backward, the gradients of all weights as well."""
    batch = series(values)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def forward() -> Tensor:
        half = one.dtype != torch.float32 and values.dtype != torch.float64
        with torch.autocast(values.device.type, one.dtype) if half else contextlib.nullcontext():
            return model(batch).patch

    def only_forward() -> Results:
        with torch.inference_mode():
            return {"patch": forward()}

    def both() -> Results:
        out = forward()
        gradients = torch.autograd.grad(out, weights, grad.to(out.dtype), allow_unused=True)
        found = torch.cat([one.flatten() for one in gradients if one is not None])
        return {"patch": out.detach(), "grad": found}

    return both if one.backward else only_forward


def series(values: Tensor) -> Batch:
    """Sentinel-2 series (B, T, C, H, W) without clouds, a date every `DAYS_BETWEEN` days."""
    batch, dates, _, height, width = values.shape
    days = FIRST_DAY + DAYS_BETWEEN * torch.arange(dates, dtype=torch.int32, device=values.device)
    valid = torch.ones(batch, dates, height, width, dtype=torch.bool, device=values.device)
    where = tuple(Where(str(number)) for number in range(batch))
    return Batch({"s2": Series(values, days.expand(batch, dates), valid, "sentinel-2")}, where)


def draw(report: Report, path: Path) -> Path:
    """Four panels over the dates: latency, throughput, peak memory, FLOPs."""
    from eokit.viz.style import new_figure, save_figure

    batch = report["rows"][0]["at"]["B"]
    panels: dict[str, tuple[Callable[[dict[str, Any]], float], Any]] = {
        "latency, ms": (lambda told: told["ms"], lambda told: told["ms_quartiles"]),
        "throughput, series a second": (lambda told: 1e3 * batch / told["ms"], None),
        "peak memory beside weights and input, MiB": (lambda told: told["extra_bytes"] / 2**20, None),
        "GFLOP": (lambda told: told["flops"] / 1e9, None),
    }
    figure = new_figure(10, 7.4)
    for axes, (title, (value, spread)) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for style, (passed, rows) in zip(("-", "--"), rows_by_pass(report), strict=False):
            draw_lines(axes, rows, value, spread, style, f", {passed}")
        axes.set_title(title, fontsize=10, loc="left")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle(subject(report), fontsize=11)
    return save_figure(figure, path)
