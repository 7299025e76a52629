"""What the Triton implementations of all ops share. Imports triton: only to be imported once a kernel is to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.library import INTERPRETED

PRECISION = "ieee"
"""Of float32 products: as exact as torch's own. "tf32x3" was tried: its operands spill in the backward pass."""


def kernel(function: Callable[..., Any]) -> Any:
    """triton.jit of a kernel that is compiled once for all values of its numbers and addresses.

    Triton would compile it again for a number that is 1, or a multiple of 16, and for an address that is one, and use
    other registers each time. What must be known is a constant (`alignment`). Strides in tuples are left to Triton.
    """
    given = signature(function).parameters.values()
    free = [one.name for one in given if "constexpr" not in str(one.annotation)]
    return triton.jit(function, do_not_specialize=free)


class Tuned:
    """A kernel and its configurations, launched as a kernel is: `tuned[grid](*arguments, **constants)`.

    Triton's autotuner times them at the first call of each `key` and keeps the winner on disk. Other tiles add in
    another order, so a winner is not for those who ask for the same bits in every process: under
    `torch.use_deterministic_algorithms(True)` it is the first configuration that fits, untimed. So it is in the
    interpreter, which has no clock.
    """

    def __init__(
        self,
        kernel: Any,
        configs: Iterable[Any],
        key: list[str],
        fitting: Callable[[dict[str, Any]], list[Any]],
        changed: Iterable[str] = (),
    ) -> None:
        """fitting: named arguments and constants -> the configurations worth trying for them, in order.

        changed: arguments that the kernel reads and writes over, which timing puts back each time.
        """
        self.kernel, self.fitting = kernel, fitting
        prune = {"early_config_prune": lambda _, arguments, **constants: fitting(arguments | constants)}
        options = {"prune_configs_by": prune, "restore_value": list(changed), "cache_results": not INTERPRETED}
        tune = triton.autotune(list(configs), key=key, **options)
        self.timed = tune(kernel)

    def __getitem__(self, grid: Callable[[dict[str, int]], tuple[int]]) -> Callable[..., None]:
        def launch(*arguments: Any, **constants: Any) -> None:
            if not INTERPRETED and not torch.are_deterministic_algorithms_enabled():
                self.timed[grid](*arguments, **constants)
                return
            first = self.fitting(dict(zip(self.kernel.arg_names, arguments, strict=False)) | constants)[0]
            self.kernel[grid](*arguments, **constants, **first.all_kwargs())

        return launch


def alignment(*tensors: Tensor) -> int:
    """The bytes that all rows of all tensors (..., D) start at a multiple of: 16, 8, or those of an element.

    16 bytes are the widest load, 8 are what heads of 44 or 100 features leave of it.
    """
    size = tensors[0].element_size()
    steps = (
        size * step for x in tensors for length, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if length > 1
    )
    common = math.gcd(16, *(x.data_ptr() for x in tensors), *steps)
    return common if common >= 8 else size


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of x."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def upcasts(x: Tensor) -> bool:
    """Whether products of tiles like x must be of float32: the interpreter's bfloat16 products are wrong."""
    return INTERPRETED and x.dtype == torch.bfloat16


def parts_of(items: int, size: int) -> int:
    """How many parts `items` are split into when each adds to `size` sums of its own, within 64 MiB.

    The sums of the parts are then added in order. The number depends on nothing else, so that results do not either.
    512 parts are about four for each multiprocessor of a large GPU.
    """
    return max(1, min((1 << 24) // max(size, 1), min(max(items, 1), 512)))


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """A (M, K) @ b (K, N) with float32 sums."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)
