"""What this machine does at best, measured in the run that is set against it: copies, matrix products, new memory."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from eokit_bench.measure import cpu_clock, cuda_clock, rounded

COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}
"""Of the source: beyond the caches of one core's share on today's CPUs; on a GPU long enough to hide its launch."""
REPEATS = 5


def roofline(device: torch.device, dtypes: Iterable[str]) -> dict[str, Any]:
    """Copy bandwidth (bytes read and written) and, by dtype, the rate of a square matrix product; best of a few.

    On a CPU also how fast the system maps new memory, beside which writing it counts apart.
    """
    size = COPY_BYTES["cuda" if device.type == "cuda" else "cpu"]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    gemm = {name: gemm_rate(device, getattr(torch, name)) for name in dtypes}
    copy = best(lambda: target.copy_(source), device)
    if device.type == "cuda":
        return rounded({"copy_gb_per_s": 2 * size / copy / 1e9, "gemm_gflop_per_s": gemm})
    copy = min(copy, seconds_of_memmove(source, target))
    new = {"new_memory_gb_per_s": mapping_rate(target)}
    return rounded({"copy_gb_per_s": 2 * size / copy / 1e9, "gemm_gflop_per_s": gemm} | new)


def seconds_of_memmove(source: torch.Tensor, target: torch.Tensor) -> float:
    """Of the C library's copy, a part a thread: it goes past the caches, torch's through them."""
    threads = torch.get_num_threads()
    part = source.nbytes // threads

    def move(number: int) -> None:
        start = number * part
        ctypes.memmove(target.data_ptr() + start, source.data_ptr() + start, part)

    with ThreadPoolExecutor(threads) as pool:
        return best(lambda: list(pool.map(move, range(threads))), source.device)


def mapping_rate(old: torch.Tensor) -> float:
    """GB/s at which memory as large as `old` is taken and mapped: filling it for the first time less filling `old`.

    From the system: torch.empty may return what the process had before.
    """
    filled = best(lambda: old.fill_(1), old.device)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    new = best(lambda: torch.frombuffer(mmap.mmap(-1, old.nbytes, private), dtype=old.dtype).fill_(1), old.device)
    return old.nbytes / max(new - filled, 1e-9) / 1e9


def higher(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The better of two measurements, rate by rate."""
    return {key: higher(one, b[key]) if isinstance(one, dict) else max(one, b[key]) for key, one in a.items()}


def gemm_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of torch.mm on unit normal numbers."""
    edge = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(edge, edge, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * edge**3 / best(lambda: torch.mm(a, b, out=out), device) / 1e9


def best(run: Any, device: torch.device) -> float:
    """Seconds of the fastest of `REPEATS` runs, after one that warms up."""
    clock = cuda_clock if device.type == "cuda" else cpu_clock
    clock(run, 1)
    return min(clock(run, 1).wall for _ in range(REPEATS))
