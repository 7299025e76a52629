"""`ops.gather_tokens` and `ops.scatter_tokens` with positions, as masked pretraining uses them, against torch's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from eokit.nn.device import pick_device
from eokit.ops import gather_tokens, scatter_tokens
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Truth, Work, make_run, passes
from eokit_bench.registry import TokensSettings


def cases(settings: TokensSettings) -> list[Case]:
    """By dtype and op; forward, then forward + backward."""
    device = pick_device(settings.device)
    tokens = settings.batch * settings.positions * settings.width
    refuse_if_too_large(8 * tokens * 4, device, "--positions, --batch")
    found = []
    for dtype, op, backward in itertools.product(settings.dtype, CONTENDERS, passes(settings.backward)):
        at: dict[str, Any] = {"op": op, "L": settings.positions, "K": kept(settings), "D": settings.width}
        at |= {"B": settings.batch, "dtype": dtype, "pass": PASSES[backward]}
        told = work(settings, op, getattr(torch, dtype).itemsize, backward)
        prepare = partial(set_up, settings, op, getattr(torch, dtype), backward, device)
        found.append(Case(at, tuple(CONTENDERS[op]), prepare, lambda name, told=told: told))
    return found


def kept(settings: TokensSettings) -> int:
    """Visible tokens of a sample."""
    return max(round(settings.positions * (1 - settings.mask_rate)), 1)


def work(settings: TokensSettings, op: str, size: int, backward: bool) -> Work:
    """Tokens taken, tokens given and positions, each once; then the gradient that comes in, and theirs."""
    width = settings.width * size
    some, everything = settings.batch * kept(settings) * width, settings.batch * settings.positions * width
    taken, given = (some, some) if op == "gather" else (some, everything)
    forward = taken + given + settings.positions * width
    back = given + (everything if op == "gather" else some) + settings.positions * width
    return Work(forward + back * backward)


def set_up(settings: TokensSettings, op: str, dtype: torch.dtype, backward: bool, device: torch.device) -> Prepared:
    """Random tokens, positions and choice; `index` (B, K) of the visible ones."""
    generator = torch.Generator(device).manual_seed(0)
    batch, length, width = settings.batch, settings.positions, settings.width
    draw = partial(torch.randn, generator=generator, device=device)
    index = torch.rand(batch, length, generator=generator, device=device).argsort(1)[:, : kept(settings)]
    given = batch, index.shape[1] if op == "gather" else length, width
    leaves = {"x": draw(batch, length if op == "gather" else index.shape[1], width), "pos": draw(length, width)}
    if op == "scatter":
        leaves["mask_token"] = draw(width)
    leaves = {name: x.to(dtype) for name, x in leaves.items()}
    grad = draw(given).to(dtype) if backward else None
    functions = {name: partial(function, index) for name, function in CONTENDERS[op].items()}

    @cache
    def truth() -> Truth:
        plain = functions["indexing"]
        exact = make_run(plain, {n: x.double() for n, x in leaves.items()}, None if grad is None else grad.double())
        sums = 4 * (batch * length) ** 0.5  # of unit normal gradients, in that of the mask token
        return Truth(exact(), make_run(plain, leaves, grad)(), sums=sums)

    return Prepared({name: make_run(f, leaves, grad) for name, f in functions.items()}, lambda name: truth())


def ours_gather(index: Tensor, x: Tensor, pos: Tensor) -> Tensor:
    return gather_tokens(x, index, pos)


def torch_gather(index: Tensor, x: Tensor, pos: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])) + pos[index]


def index_gather(index: Tensor, x: Tensor, pos: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device)[:, None], index] + pos[index]


def ours_scatter(index: Tensor, x: Tensor, pos: Tensor, mask_token: Tensor) -> Tensor:
    return scatter_tokens(x, index, len(pos), mask_token, pos)


def torch_scatter(index: Tensor, x: Tensor, pos: Tensor, mask_token: Tensor) -> Tensor:
    grid = mask_token.expand(len(x), len(pos), -1)
    return grid.scatter(1, index[..., None].expand_as(x), x) + pos


def index_scatter(index: Tensor, x: Tensor, pos: Tensor, mask_token: Tensor) -> Tensor:
    grid = mask_token.expand(len(x), len(pos), -1).clone()
    grid[torch.arange(len(x), device=x.device)[:, None], index] = x
    return grid + pos


CONTENDERS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "gather": {"eokit": ours_gather, "torch.gather": torch_gather, "indexing": index_gather},
    "scatter": {"eokit": ours_scatter, "torch.scatter": torch_scatter, "indexing": index_scatter},
}
