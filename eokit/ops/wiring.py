"""What every op tells torch beside its shapes and gradients: autocast stays outside, a gradient has no derivative."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor

from eokit.errors import UsageError


def has_autocast(x: Tensor) -> bool:
    """Whether torch.autocast is on for the device of x; there are devices, such as meta, that have none."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within, products on the device of x are of the dtypes that they are given.

    For bodies of ops, too: a backward that is called inside an autocast block runs in it.
    """
    return torch.autocast(x.device.type, enabled=False) if has_autocast(x) else nullcontext()


def refuse_second_derivative(backward: str, op: str, library: str = "eokit") -> None:
    """Let the derivative of `library::backward`, the gradient of `op`, raise; torch would take it for 0."""

    def refuse(*_: Any) -> NoReturn:
        raise UsageError(f'{op} has no second derivative; compute it within eokit.ops.use_backend("reference")')

    torch.library.register_autograd(f"{library}::{backward}", refuse)
