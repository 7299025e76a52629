"""Which backends, dtypes and sizes the tests on a GPU go through, and what they leave out in a rehearsal on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from eokit.ops import backends, library
from tests.gpu.conftest import DEVICE, REHEARSAL

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF)
PLAIN = ("reference", "sdpa")


def named(name: str, dtype: torch.dtype | None = None, slow: bool = False) -> object:
    """A parameter for a backend, skipped with its reason where it is not there."""
    known = {one.name: one for one in backends()}[name]
    marks = [] if known.available else [pytest.mark.skip(reason=f"{name}: {known.reason}")]
    marks += [pytest.mark.slow] if slow else []
    values = [name] if dtype is None else [name, dtype]
    return pytest.param(*values, marks=marks, id="-".join(str(one).removeprefix("torch.") for one in values))


KERNELS = [named(name, dtype) for name in ("triton", "cuda") for dtype in (DTYPES if name == "triton" else HALF)]
EVERY = [*KERNELS, *(named(name, dtype) for name in PLAIN for dtype in DTYPES)]
every_kernel = pytest.mark.parametrize(("backend", "dtype"), KERNELS)
every_backend = pytest.mark.parametrize(("backend", "dtype"), EVERY)
"""For attention, of which the CUDA kernels take no float32."""
ROWS = [named(name, dtype) for name in ("triton", "reference") for dtype in DTYPES]
every_row_kernel = pytest.mark.parametrize(("backend", "dtype"), ROWS)
every_token_kernel = pytest.mark.parametrize(("backend", "dtype"), [*ROWS, *(named("cuda", dtype) for dtype in DTYPES)])


def some(values: tuple[int, ...], quick: tuple[int, ...]) -> list[object]:
    """The values, those that are not `quick` marked slow: every width and length is a kernel to compile."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def skip_if_long(operations: float) -> None:
    """Leave out what the interpreter would take minutes for."""
    if REHEARSAL and library.INTERPRETED and operations > 2e5:
        pytest.skip("too long for the interpreter")


def skip_without(nbytes: float) -> None:
    """Leave out what the free memory of the GPU does not hold."""
    free = 0 if DEVICE == "cpu" else torch.cuda.mem_get_info()[0]
    if free < nbytes:
        pytest.skip(f"needs {nbytes / 1e9:.3g} GB of a GPU's memory, free are {free / 1e9:.3g}")


def captured(run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], Callable[[], None]]:
    """Results of `run`, and a call that makes them anew in the same memory: a CUDA graph. On a CPU there is none."""
    if DEVICE == "cpu":
        results = [x.detach().clone() for x in run()]
        return results, lambda: [mine.copy_(x.detach()) for mine, x in zip(results, run(), strict=True)]
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # tuning and lazy loading are over before the capture
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return results, graph.replay
