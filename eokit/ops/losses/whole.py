"""The losses with all logits in memory, for batches that have few: the forward keeps what the backward multiplies.

Kept are the slopes, the derivative of every row's loss by its logits, so that a backward is two products where
streaming has to make the logits again.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from eokit.ops import library
from eokit.ops.losses.tiles import INFINITY, Pairs
from eokit.ops.wiring import refuse_second_derivative

MOST = 2**22
"""Logits: 16 MiB of float32, held two to four times at once. Above, streaming was as fast (docs/decisions.md)."""


MOST_BY_IDS = 2**16
"""Logits of MIL-NCE where the compiled library goes through its tiles: streaming was as fast at 2^16, and took half the
time at 2^22 (docs/decisions.md)."""


def fits(a: Tensor, b: Tensor, by_ids: bool = False) -> bool:
    """Whether the logits of a (N, D) and b (M, D) are few; by_ids: those of MIL-NCE."""
    if by_ids and a.device.type == "cpu" and library.runs_kernels(a):
        return len(a) * len(b) <= min(MOST, MOST_BY_IDS)
    return len(a) * len(b) <= MOST


def keeps(*tensors: Tensor) -> bool:
    """Whether the slopes will be wanted."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


@torch.library.custom_op("eokit::nce_whole", mutates_args=())
def nce_whole(
    a: Tensor,
    b: Tensor,
    positives: Tensor | None,
    group: Tensor | None,
    block: Tensor | None,
    temperature: float,
    inside: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of every row (N,), which rows have positives, and the slopes (N, M), or nothing (0, M).

    Arguments as for `streamed.nce_forward`, of which `group` and `block` are both sides.
    """
    pairs = Pairs(positives, group, group, block, block)
    logs = pairs.mask(a / temperature @ b.T).log_softmax(1)
    positive = pairs.positive()
    if positive is None:
        losses, used = -logs.diagonal(), torch.ones(len(a), dtype=torch.bool, device=a.device)
        if keep:
            logs.exp_().diagonal().sub_(1)
        return losses, used, logs if keep else a.new_empty(0, len(b))
    if inside:
        chosen = torch.where(positive, logs, -INFINITY)
        near = chosen.logsumexp(1)
        used = near > -INFINITY
        losses = torch.where(used, -near, 0.0)
        wanted = chosen.sub_(torch.where(used, near, 0.0)[:, None]).exp_() if keep else None
    else:
        count = positive.sum(1)
        used = count > 0
        losses = -torch.where(positive, logs, 0.0).sum(1) / count.clamp(min=1)
        wanted = positive.to(logs.dtype) / count.clamp(min=1)[:, None] if keep else None
    if wanted is None:
        return losses, used, a.new_empty(0, len(b))
    # Not times 0: a row without candidates is all NaN.
    return losses, used, logs.exp_().sub_(wanted).masked_fill_(~used[:, None], 0.0)


@torch.library.custom_op("eokit::dino_whole", mutates_args=())
def dino_whole(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    center: Tensor,
    temperature: float,
    teacher_temperature: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The loss of every row (N,), and the slopes (N, K), or nothing (0, K). Arguments as for `dino_forward`."""
    logs = ((student / temperature) @ prototypes.T).log_softmax(1)
    targets = (teacher @ teacher_prototypes.T).sub_(center).div_(teacher_temperature).softmax(1)
    losses = -(targets * logs).sum(1)
    return losses, logs.exp_().sub_(targets) if keep else student.new_empty(0, len(prototypes))


@torch.library.custom_op("eokit::whole_backward", mutates_args=())
def whole_backward(grad: Tensor, slopes: Tensor, a: Tensor, b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The gradients of a (N, D) and b (M, D), from the gradient of every row's loss (N,)."""
    weight = (grad / temperature)[:, None]
    return (slopes @ b).mul_(weight), slopes.T @ (a * weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """inputs: (two tensors with a gradient, others); output: (losses, others, slopes)."""
    ctx.temperature = next(one for one in inputs if isinstance(one, float))
    ctx.given = len(inputs)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(output[-1], *inputs[:2])


def _gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    grads = whole_backward(grad.contiguous(), *ctx.saved_tensors, ctx.temperature)
    return *grads, *[None] * (ctx.given - 2)


def _slopes(a: Tensor, b: Tensor, keep: bool) -> Tensor:
    return a.new_empty(len(a) if keep else 0, len(b))


@nce_whole.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return a.new_empty(len(a)), a.new_empty(len(a), dtype=torch.bool), _slopes(a, b, rest[-1])


@dino_whole.register_fake
def _(student: Tensor, prototypes: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return student.new_empty(len(student)), _slopes(student, prototypes, rest[-1])


@whole_backward.register_fake
def _(grad: Tensor, slopes: Tensor, a: Tensor, b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(b)


for _op in (nce_whole, dino_whole):
    _op.register_autograd(_gradient, setup_context=_setup_context)
for _op, _device in product((nce_whole, dino_whole, whole_backward), ("cpu", "cuda")):
    _op.register_autocast(_device, torch.float32)  # what they are given already: autocast stays outside
refuse_second_derivative("whole_backward", "info_nce, mil_nce or dino_cross_entropy")
