"""What the Triton implementations of all ops share. Imports triton: only to be imported once a kernel is to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from eokit.ops.library import INTERPRETED

PRECISION = "ieee"
"""Of float32 products: as exact as torch's own. "tf32x3" was tried: its operands spill in the backward pass."""


def tuned(configs: Iterable[Any], key: list[str], keep: Callable[..., list[Any]] | None = None) -> Callable[..., Any]:
    """triton.autotune over `configs`, the winner kept on disk; under the interpreter, which has no clock, the first.

    keep: (configs, named arguments, **keywords) -> those worth trying for these arguments, in order.
    """

    def prune(configs: list[Any], arguments: dict[str, Any], **rest: Any) -> list[Any]:
        kept = configs if keep is None else keep(configs, arguments, **rest)
        return kept[:1] if INTERPRETED else kept

    return triton.autotune(
        list(configs),
        key=key,
        prune_configs_by={"early_config_prune": prune},
        do_bench=_no_bench if INTERPRETED else None,
        cache_results=not INTERPRETED,
    )


def _no_bench(call: Callable[[], Any], quantiles: tuple[float, ...]) -> list[float]:
    return [0.0] * len(quantiles)


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
