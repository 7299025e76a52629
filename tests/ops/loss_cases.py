"""Inputs of the losses, for tests with and without a GPU; imports nothing but torch and eokit.ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from eokit.ops import dino_cross_entropy, info_nce, mil_nce, use_backend
from eokit.ops.losses import streamed, whole

LOSSES = ("info_nce", "info_nce, positives", "mil_nce", "mil_nce, blocks", "dino_cross_entropy")
Case = tuple[list[Tensor], Callable[..., Tensor]]


@contextmanager
def in_tiles(size: tuple[int, int] | None = None) -> Iterator[None]:
    """Within, no logits are held, however few; size: rows and columns of a tile, the usual ones unless told."""
    sizes = {} if size is None else dict.fromkeys(streamed.TILE, size)
    with mock.patch.object(whole, "MOST", 0), mock.patch.dict(streamed.TILE, sizes):
        yield


def make_loss(loss: str, rows: int, columns: int, dim: int = 12) -> Case:
    """What has gradients, in float64, and the loss of it; mil_nce and info_nce without positives have rows alone.

    Groups of about five rows, not in order, and three blocks; or a tenth of the pairs positives, none of the first row.
    """
    if loss in ("info_nce", "mil_nce", "mil_nce, blocks"):
        columns = rows
    a, b = (torch.nn.functional.normalize(torch.randn(n, dim).double(), dim=1) for n in (rows, columns))
    if loss.startswith("mil_nce"):
        group = torch.randint(max(rows // 5, 1), (rows,))
        block = torch.randint(3, (rows,)) if "blocks" in loss else None
        return [a], lambda a: mil_nce(a, group, block=block, temperature=0.3)
    if loss.startswith("info_nce"):
        positives = torch.rand(rows, columns) < 0.1
        positives[0] = False
        return [a, b], lambda a, b: info_nce(
            a, b, positives=positives if "positives" in loss else None, temperature=0.3
        )
    teacher, center = [torch.randn(n, 5).double() / 3 for n in (rows, columns)], torch.randn(columns).double() / 5

    def dino(a: Tensor, b: Tensor) -> Tensor:
        given = (one.to(a.dtype) for one in teacher)
        return dino_cross_entropy(a, b, *given, center=center.to(a.dtype), temperature=0.3, teacher_temperature=0.2)

    return [a, b], dino


def run_loss(backend: str | None, dtype: torch.dtype, case: Case) -> tuple[Tensor, ...]:
    """The loss and its gradients."""
    leaves, loss = case
    leaves = [one.to(dtype).requires_grad_() for one in leaves]
    with use_backend(backend):
        out = loss(*leaves)
        return out, *torch.autograd.grad(out, leaves)
