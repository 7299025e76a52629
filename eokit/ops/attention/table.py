"""Which backend is the fastest for attention on a GPU: measured by benchmarks/gpu.py, asked by `_choose`.

A row holds for the lengths from it up to the next one; what no row covers runs on SDPA, as everything does on a GPU
that nobody has measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BACKENDS = ("triton", "cuda", "sdpa")
ADDED = ("nothing", "mask", "bias")
"""What goes with q, k and v: a bias counts as one with and without a key mask."""


class Row(NamedTuple):
    """Sequences of `length` keys and heads of at most `dim` features are fastest on `backend`.

    axis: "temporal" where the tokens of a sequence lie apart in memory, with those of others between them, "spatial"
    where they follow each other. dtype: "bfloat16". added: one of `ADDED`. gradients: with the backward pass.
    """

    axis: str
    length: int
    dim: int
    dtype: str
    added: str
    gradients: bool
    backend: str


Table = Mapping[str, Sequence[Row]]

MEASURED: Table = {}
"""Name of the GPU -> its rows, in any order. Empty: no GPU was measured."""


def fastest(
    q: Tensor, k: Tensor, added: str, gradients: bool, *, table: Table = MEASURED, device: str | None = None
) -> str | None:
    """The backend that was the fastest for arguments like q, k (..., L, H, D) on the GPU of q; None: not measured.

    added: one of `ADDED`. gradients: whether rows with the backward pass count, or those without.
    """
    if not table:
        return None
    rows = table.get(device or _device_name(q.device.index), ())
    length, dim = k.shape[-3], q.shape[-1]
    asked = axis_of(k), str(q.dtype).removeprefix("torch."), added, gradients
    fitting = [
        row
        for row in rows
        if (row.axis, row.dtype, row.added, row.gradients) == asked and row.length <= length and row.dim >= dim
    ]
    if not fitting:
        return None
    narrowest = min(row.dim for row in fitting)
    return max((row for row in fitting if row.dim == narrowest), key=lambda row: row.length).backend


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether a backward pass can come to any of them."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def axis_of(k: Tensor) -> str:
    """Whether the tokens of a sequence k (..., L, H, D) lie apart, "temporal", or follow each other, "spatial"."""
    if k.dim() < 4:
        return "spatial"
    return "temporal" if k.stride(-3) > max(k.stride(-2), k.stride(-4)) else "spatial"


def _device_name(index: int | None) -> str:
    return torch.cuda.get_device_name(index)


# What torch.compiler.assume_constant_result sets, which would import all of torch._dynamo with eokit.ops.
_device_name._dynamo_marked_constant = True  # type: ignore[attr-defined]
