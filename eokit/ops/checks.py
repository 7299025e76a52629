"""Checks of arguments that several ops share; each raises ArgumentError with the name of the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from eokit.errors import ArgumentError, UsageError
from eokit.ops import library

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What torch computes with; its 8-bit formats only store."""
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
OPTIONAL = ("key_mask", "bias", "pos", "offsets", "positives", "block", "center")
"""Arguments of the ops that may be None."""


def check_tensors(plain: bool = False, /, **given: Any) -> None:
    """Every argument, by name, is a tensor, of `OPTIONAL` or None; none has a tangent, unless `plain` torch will run.

    torch lets tangents of its custom operators fall silently: forward derivatives would be zero.
    """
    for name, x in given.items():
        if not isinstance(x, Tensor) and not (x is None and name in OPTIONAL):
            raise ArgumentError(f"{name} is of type {type(x).__name__}, expected a tensor")
    if forward_ad._current_level < 0 or plain or library.default_backend() == "reference":
        return
    for name, x in given.items():
        if x is not None and x.dtype in library.COMPILED_DTYPES and forward_ad.unpack_dual(x).tangent is not None:
            raise UsageError(
                f"{name} has a tangent, and kernels have no forward derivative;"
                ' compute it within eokit.ops.use_backend("reference")'
            )


def check_device(owner: str, x: Tensor, **others: Tensor | None) -> None:
    """`others`, by name, are on the device of x, which is the argument `owner`."""
    for name, other in others.items():
        if other is not None and other.device != x.device:
            raise ArgumentError(f"{name} is on {other.device}, expected the device of {owner}, {x.device}")


def check_number(name: str, value: Any, above: float = -math.inf) -> None:
    """`value` is a finite number above `above`; no tensor, which would get no gradient."""
    if not isinstance(value, Real | torch.SymFloat | torch.SymInt):
        raise ArgumentError(f"{name} is of type {type(value).__name__}, expected a number")
    if not (math.isfinite(float(value)) and float(value) > above):
        least = "" if above == -math.inf else f" above {above:g}"
        raise ArgumentError(f"{name} is {value}, expected a finite number{least}")


def check_whole(name: str, value: Any, least: int) -> None:
    """`value` is a whole number, `least` or more."""
    if not isinstance(value, Integral | torch.SymInt):
        raise ArgumentError(f"{name} is {value!r}, expected a whole number")
    if value < least:
        raise ArgumentError(f"{name} is {value}, expected {least} or more")
