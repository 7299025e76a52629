"""`ops.temporal_pool`, the core of L-TAE, against the same in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from eokit.errors import UsageError
from eokit.nn.device import pick_device
from eokit.ops import temporal_pool
from eokit.ops.temporal_pool import reference
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Truth, Work, make_run, passes
from eokit_bench.registry import PoolSettings


def cases(settings: PoolSettings) -> list[Case]:
    """By dtype and length; forward, then forward + backward."""
    if settings.width % settings.heads:
        raise UsageError(f"--width {settings.width} is no multiple of --heads {settings.heads}")
    device, found = pick_device(settings.device), []
    for dtype, dates, backward in itertools.product(settings.dtype, settings.seq_len, passes(settings.backward)):
        size = (settings.batch, settings.positions, dates, settings.width)
        refuse_if_too_large(6 * torch.Size(size).numel() * 4, device, "--seq-len, --positions, --batch")
        at: dict[str, Any] = {"T": dates, "N": settings.positions, "H": settings.heads, "D": settings.width}
        at |= {"B": settings.batch, "mask_rate": settings.mask_rate, "dtype": dtype, "pass": PASSES[backward]}
        told = work(size, settings.heads, getattr(torch, dtype).itemsize, backward)
        prepare = partial(set_up, settings, size, getattr(torch, dtype), backward, device)
        found.append(Case(at, tuple(CONTENDERS), prepare, lambda name, told=told: told))
    return found


def work(size: tuple[int, int, int, int], heads: int, itemsize: int, backward: bool) -> Work:
    """Series read once and their means written; back, these again and the gradient of the series.

    Scores and means are 2 (H + 1) operations a feature; back, scores again, and two products for either.
    """
    features = torch.Size(size).numel()
    means = features // size[2]
    forward = (features + means) * itemsize, 2 * (heads + 1) * features
    back = (2 * features + means) * itemsize, 2 * (3 * heads + 2) * features
    return Work(forward[0] + back[0] * backward, forward[1] + back[1] * backward)


def set_up(
    settings: PoolSettings, size: tuple[int, int, int, int], dtype: torch.dtype, backward: bool, device: torch.device
) -> Prepared:
    """x (S, N, T, D), queries (H, D), positions (S, T, D / H); a mask of its own for every pixel."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    samples, pixels, dates, width = size
    leaves = {"x": draw(size).to(dtype), "queries": (draw(settings.heads, width) / width**0.5).to(dtype)}
    positions = draw(samples, dates, width // settings.heads).to(dtype)
    grad = draw(samples, pixels, width).to(dtype) if backward else None
    mask = (
        torch.rand(size[:3], generator=generator, device=device) >= settings.mask_rate if settings.mask_rate else None
    )
    if mask is not None:
        mask[..., 0] = True

    @cache
    def truth() -> Truth:
        wide = {name: x.double() for name, x in leaves.items()}
        pool = partial(reference.temporal_pool, positions=positions.double(), key_mask=mask)
        exact = make_run(pool, wide, None if grad is None else grad.double())
        own = make_run(partial(reference.temporal_pool, positions=positions, key_mask=mask), leaves, grad)
        return Truth(exact(), own())

    runs = {
        name: make_run(partial(pool, positions=positions, key_mask=mask), leaves, grad)
        for name, pool in CONTENDERS.items()
    }
    return Prepared(runs, lambda name: truth())


def by_einsum(x: Tensor, queries: Tensor, positions: Tensor, key_mask: Tensor | None) -> Tensor:
    """The same with a product in place of the weighted sum."""
    heads = len(queries)
    features = x + positions.repeat(1, 1, heads)[:, None]  # (S, N, T, D)
    scores = features @ queries.T  # (S, N, T, H)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[..., None], float("-inf"))
    return torch.einsum("snth,snthv->snhv", scores.softmax(2), features.unflatten(-1, (heads, -1))).flatten(-2)


CONTENDERS: dict[str, Callable[..., Tensor]] = {
    "eokit": temporal_pool,
    "plain torch": reference.temporal_pool,
    "einsum": by_einsum,
}
