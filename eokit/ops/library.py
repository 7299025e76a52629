"""Loads the compiled libraries, so that a missing one never breaks the import, and says what is missing and why.

Without `_C` the op schemas of csrc/library.cpp are defined from here, so that `torch.ops.eokit` is the same everywhere;
each op's folder gives them their implementation, fake kernel and gradient.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eokit.errors import SetupError, UsageError

PACKAGE = Path(__file__).resolve().parent.parent
BUILD_REPORT = PACKAGE / "_build_report.json"
NAMES = ("reference", "sdpa", "cpu", "cuda")

# csrc/library.cpp says the same; tests/ops/test_library.py holds the two together.
SCHEMAS = {
    "attention_forward": "(Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? bias_t, float scale) -> "
    "(Tensor out, Tensor lse)",
    "attention_backward": "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? bias_t, "
    "Tensor out, Tensor lse, float scale, bool with_bias) -> "
    "(Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_bias_t)",
    "invert_index": "(Tensor index, int length) -> Tensor",
    "map_rows": "(Tensor source, Tensor map, Tensor back, Tensor? fill, Tensor? positions, bool by_output) -> Tensor",
    "sum_unmapped": "(Tensor rows, Tensor map) -> Tensor",
    "pool_forward": "(Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask) -> "
    "(Tensor out, Tensor lse)",
    "pool_backward": "(Tensor grad_out, Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask, "
    "Tensor lse) -> (Tensor grad_x, Tensor grad_queries, Tensor grad_bias)",
    "norm_relu": "(Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> Tensor",
    "norm_relu_": "(Tensor(a!) z, Tensor weight, Tensor bias, int groups, float epsilon) -> ()",
    "norm_relu_backward": "(Tensor grad_out, Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> "
    "(Tensor grad_z, Tensor grad_weight, Tensor grad_bias)",
}


@dataclass(frozen=True)
class Backend:
    """One way to compute the ops, whether it can be used here, and what is so or why not, in one line."""

    name: str
    available: bool
    reason: str


def backends() -> tuple[Backend, ...]:
    """Every backend that eokit knows, the readable one first."""
    return (
        Backend("reference", True, "plain torch, any dtype and device"),
        Backend("sdpa", True, "torch.nn.functional.scaled_dot_product_attention on views"),
        Backend("cpu", COMPILED, _CPU_REASON),
        Backend("cuda", CUDA_LIBRARY is not None, _CUDA_REASON),
    )


def default_backend() -> str | None:
    """The backend that EOKIT_BACKEND asks for, None if it is not set; UsageError or SetupError if it cannot be had."""
    if _REQUESTED is None:
        return None
    if _REQUESTED not in NAMES:
        raise UsageError(f"EOKIT_BACKEND is {_REQUESTED!r}, expected one of {', '.join(NAMES)}")
    if _REQUESTED == "cpu":
        require_compiled("EOKIT_BACKEND=cpu")
    if _REQUESTED == "cuda":
        require_cuda("EOKIT_BACKEND=cuda")
    return _REQUESTED


COMPILED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def runs_compiled(x: torch.Tensor) -> bool:
    """Whether compiled CPU kernels take tensors like x, and neither EOKIT_BACKEND nor `use_backend` says otherwise."""
    covered = x.dtype in COMPILED_DTYPES and x.device.type == "cpu"
    return COMPILED and covered and default_backend() in (None, "cpu")


OPS = {
    "attention": ("cpu", "sdpa"),
    "gather_tokens": ("cpu", "reference"),
    "scatter_tokens": ("cpu", "reference"),
    "temporal_pool": ("cpu", "reference"),
    "row_mlp": ("cpu", "reference"),
    "info_nce": ("streamed", "streamed"),
    "mil_nce": ("streamed", "streamed"),
    "dino_cross_entropy": ("streamed", "streamed"),
}
"""Where every op runs by default: compiled dtypes on a CPU with the compiled library; everything else."""


def placement() -> dict[str, str]:
    """Op -> where float32 on a CPU runs here: "cpu", "sdpa", "reference", or "streamed", torch tile by tile."""
    wanted = default_backend()
    if wanted == "reference":
        return dict.fromkeys(OPS, "reference")
    compiled = runs_compiled(torch.empty(0))
    return {op: best if compiled or best == "streamed" else other for op, (best, other) in OPS.items()}


def fall_back(name: str, implementation: Callable[..., Any]) -> None:
    """Let the op `eokit::name` run `implementation`, plain torch, where there is no kernel of ours."""
    if CUDA_LOADED and COMPILED and name in CUDA_OPS:
        return
    torch.library.impl(f"eokit::{name}", "cuda" if COMPILED else "default", implementation)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Let every op run on the backend `name` within the block, None: the best; what EOKIT_BACKEND says is put aside."""
    global _REQUESTED
    before, _REQUESTED = _REQUESTED, name
    try:
        default_backend()
        yield
    finally:
        _REQUESTED = before


def require_compiled(wanted_by: str) -> None:
    """Raise SetupError if the compiled CPU library is not there."""
    if not COMPILED:
        raise SetupError(f"{wanted_by} needs the compiled CPU library, which is missing: {_CPU_REASON}")


CUDA_OPS = ("attention_forward", "attention_backward", "invert_index", "map_rows", "sum_unmapped")
"""The ops that csrc/cuda registers; attention in bfloat16 and float16."""


def require_cuda(wanted_by: str) -> None:
    """Raise SetupError if the CUDA kernels did not take over CUDA tensors when eokit was imported."""
    if CUDA_LIBRARY is None:
        raise SetupError(f"{wanted_by} needs the CUDA kernels, which are missing: {_CUDA_REASON}")
    if not CUDA_LOADED:
        raise SetupError(f"{wanted_by} needs EOKIT_BACKEND=cuda in the environment before eokit is imported")


def _find_cuda() -> tuple[Path | None, str]:
    """Where eokit/_C_cuda*.so is, and what it takes to run it; (None, why there is none)."""
    found = sorted(PACKAGE.glob("_C_cuda.*so")) + sorted(PACKAGE.glob("_C_cuda.*pyd"))
    if not found:
        return None, _why_not_built("_C_cuda")
    if torch.version.cuda is None:
        return None, f"{found[0].name} is there, but this torch has no CUDA"
    return found[0], f"kernels in {found[0].name}, which run if EOKIT_BACKEND=cuda is set; never run on a GPU so far"


def _load_cuda() -> tuple[bool, Path | None, str]:
    """Load eokit/_C_cuda*.so if EOKIT_BACKEND asks for it: it takes the place of other kernels for CUDA tensors."""
    library, reason = _find_cuda()
    if library is None or _REQUESTED != "cuda":
        return False, library, reason
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return False, None, f"{library.name} does not load: {str(error).splitlines()[0]}"
    return True, library, f"kernels from {library.name}, never run on a GPU so far"


def _load_compiled() -> tuple[bool, str]:
    """Load eokit/_C*.so into torch.ops; (True, where it is) or (False, why not)."""
    if _REQUESTED == "reference":
        return False, "not loaded, EOKIT_BACKEND=reference"
    found = sorted(PACKAGE.glob("_C.*so")) + sorted(PACKAGE.glob("_C.*pyd"))
    if not found:
        return False, _why_not_built("_C")
    try:
        torch.ops.load_library(str(found[0]))
    except (OSError, RuntimeError) as error:
        return False, f"{found[0].name} does not load: {str(error).splitlines()[0]}"
    return True, f"{torch.ops.eokit.select_instruction_set('')} kernels from {found[0].name}"


def _why_not_built(library: str) -> str:
    try:
        reason = json.loads(BUILD_REPORT.read_text())[library]
    except (OSError, ValueError, KeyError):
        compiler = "a CUDA build of torch and nvcc" if library == "_C_cuda" else "a C++ compiler"
        reason = f"it was never built; install eokit with {compiler} on the path"
    return f"no compiled library in {PACKAGE}: {reason}"


_REQUESTED = os.environ.get("EOKIT_BACKEND") or None
COMPILED, _CPU_REASON = _load_compiled()
if not COMPILED:
    for _name, _schema in SCHEMAS.items():
        torch.library.define(f"eokit::{_name}", _schema)
CUDA_LOADED, CUDA_LIBRARY, _CUDA_REASON = _load_cuda()
