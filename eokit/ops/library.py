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
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from eokit.errors import SetupError, UsageError
from eokit.ops.wiring import without_autocast

PACKAGE = Path(__file__).resolve().parent.parent
BUILD_REPORT = PACKAGE / "_build_report.json"
NAMES = ("reference", "sdpa", "cpu", "triton", "cuda")
TRITON_FROM = (3, 6)  # the first in which kernels take tuples of strides; compiled and checked for a stack: 3.7.1
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton runs kernels in Python, on CPU tensors: for tests where there is no GPU."""

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
    "gather_gradients": "(Tensor grad, Tensor inverse, Tensor index) -> (Tensor x, Tensor positions)",
    "scatter_gradients": "(Tensor grad, Tensor inverse, Tensor index) -> "
    "(Tensor visible, Tensor mask_token, Tensor positions)",
    "pool_forward": "(Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask) -> "
    "(Tensor out, Tensor lse)",
    "pool_backward": "(Tensor grad_out, Tensor x, Tensor queries, Tensor bias, Tensor positions, Tensor? mask, "
    "Tensor lse) -> (Tensor grad_x, Tensor grad_queries, Tensor grad_bias)",
    "norm_relu": "(Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> Tensor",
    "norm_relu_": "(Tensor(a!) z, Tensor weight, Tensor bias, int groups, float epsilon) -> ()",
    "norm_relu_backward": "(Tensor grad_out, Tensor z, Tensor weight, Tensor bias, int groups, float epsilon) -> "
    "(Tensor grad_z, Tensor grad_weight, Tensor grad_bias)",
    "nce_add_": "(Tensor scores, Tensor? group_rows, Tensor? group_columns, Tensor? block_rows, Tensor? block_columns, "
    "Tensor(a!) highest, Tensor(b!) total, Tensor(c!) near_highest, Tensor(d!) near_total) -> ()",
    "nce_slopes_": "(Tensor(a!) scores, Tensor? group_rows, Tensor? group_columns, Tensor? block_rows, "
    "Tensor? block_columns, Tensor sums, Tensor others) -> ()",
}

CUDA_OPS = ("attention_forward", "attention_backward", "invert_index", "map_rows", "sum_unmapped")
"""Those that csrc/cuda implements, as ops of their own with the same schemas: `torch.ops.eokit_cuda`."""
CUDA_PUBLIC = ("attention", "gather_tokens", "scatter_tokens")
"""The public ops that stand on them."""


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
        Backend("triton", TRITON and (INTERPRETED or torch.cuda.is_available()), _triton_reason()),
        Backend("cuda", CUDA and torch.cuda.is_available(), _cuda_reason()),
    )


def default_backend() -> str | None:
    """The backend that EOKIT_BACKEND asks for, None if it is not set; UsageError or SetupError if it cannot be had."""
    if _REQUESTED is not None:
        require(_REQUESTED, f"EOKIT_BACKEND={_REQUESTED}")
    return _REQUESTED


def require(name: str, wanted_by: str) -> None:
    """Raise UsageError if no backend has this name, SetupError if it cannot be had."""
    if name not in NAMES:
        raise UsageError(f"{wanted_by}: there is no backend {name!r}, expected one of {', '.join(NAMES)}")
    if name == "cpu":
        require_compiled(wanted_by)
    if name == "triton":
        require_triton(wanted_by)
    if name == "cuda":
        require_cuda(wanted_by)


COMPILED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes_compiled(x: torch.Tensor) -> bool:
    """Whether the compiled CPU library is there and takes tensors like x."""
    return COMPILED and x.dtype in COMPILED_DTYPES and x.device.type == "cpu"


def takes_triton(x: torch.Tensor) -> bool:
    """Whether Triton is there and takes tensors like x."""
    return TRITON and x.dtype in COMPILED_DTYPES and (x.device.type == "cuda" or INTERPRETED)


def takes_cuda(x: torch.Tensor) -> bool:
    """Whether the CUDA library is there and takes tensors like x; its attention takes no float32."""
    return CUDA and x.dtype in COMPILED_DTYPES and x.device.type == "cuda"


def runs_cuda(x: torch.Tensor) -> bool:
    """Whether the CUDA library was asked for and takes tensors like x."""
    return default_backend() == "cuda" and takes_cuda(x)


def runs_kernels(x: torch.Tensor) -> bool:
    """Whether kernels of ours take tensors like x, and neither EOKIT_BACKEND nor `use_backend` says otherwise."""
    return (default_backend() in (None, "cpu") and takes_compiled(x)) or (wants_triton() and takes_triton(x))


def wants_triton() -> bool:
    """Whether Triton was asked for. No GPU has run its kernels yet, so it is never the default on one."""
    wanted = default_backend()
    return wanted == "triton" or (wanted is None and INTERPRETED)


OPS = {
    "attention": ("kernels", "sdpa"),
    "gather_tokens": ("kernels", "reference"),
    "scatter_tokens": ("kernels", "reference"),
    "temporal_pool": ("kernels", "reference"),
    "row_mlp": ("kernels", "reference"),
    "info_nce": ("kernels", "streamed"),
    "mil_nce": ("kernels", "streamed"),
    "dino_cross_entropy": ("triton", "streamed"),
}
"""Which kernels of ours every op has, all or those in Triton; and where it runs where they do not take the tensors."""


def placement(device: str = "cpu") -> dict[str, str]:
    """Op -> where it runs here on `device`: "cpu", "triton", "cuda", "sdpa", "reference", or "streamed".

    "streamed" is torch tile by tile. Of float32, or of bfloat16 where "cuda" was asked for.
    """
    wanted = default_backend()
    if wanted == "reference":
        return dict.fromkeys(OPS, "reference")
    if wanted == device == "cuda":
        return placement_of_cuda()
    ours = {"cpu": COMPILED and "cpu", "cuda": TRITON and "triton"}.get(device) or None
    kernels = ours if wanted == ours or (wanted is None and ours != "triton") else None
    return {op: kernels if kernels and best in ("kernels", kernels) else other for op, (best, other) in OPS.items()}


def placement_of_cuda() -> dict[str, str]:
    """Of the ops that csrc/cuda has kernels for; the others stay where they are without any."""
    return {op: "cuda" if op in CUDA_PUBLIC else other for op, (_, other) in OPS.items()}


def register(
    name: str,
    plain: Callable[..., Any],
    kernels: str | None = None,
    takes: Callable[..., bool] = lambda x, *_: takes_triton(x),
) -> None:
    """Let the op `eokit::name` run where the compiled library does not: in Triton where that is there, else `plain`.

    kernels: the module whose function `name` launches the Triton kernels; imported at the first call that needs it.
    takes: whether they take these arguments.
    """

    def run(*arguments: Any) -> Any:
        with without_autocast(arguments[0]):
            if kernels is not None and takes(*arguments):
                return getattr(import_module(kernels), name)(*arguments)
            return plain(*arguments)

    torch.library.impl(f"eokit::{name}", "cuda" if COMPILED else "default", run)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Let every op run on the backend `name` within the block, None: the best; what EOKIT_BACKEND says is put aside.

    UsageError or SetupError if it cannot be had.
    """
    global _REQUESTED
    if name is not None:
        require(name, f"use_backend({name!r})")
    before, _REQUESTED = _REQUESTED, name
    try:
        yield
    finally:
        _REQUESTED = before


def require_compiled(wanted_by: str) -> None:
    """Raise SetupError if the compiled CPU library is not there."""
    if not COMPILED:
        raise SetupError(f"{wanted_by} needs the compiled CPU library, which is missing: {_CPU_REASON}")


def require_triton(wanted_by: str) -> None:
    """Raise SetupError if Triton is not there."""
    if not TRITON:
        raise SetupError(f"{wanted_by} needs Triton: {_TRITON_REASON}")


def _find_triton() -> tuple[bool, str]:
    """Whether a new enough Triton is installed, and which, or why not; it is not imported."""
    if find_spec("triton") is None:
        return False, "triton is not installed; it comes with torch for CUDA, or: pip install 'eokit[triton]'"
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return False, "triton can be imported but has no version; pip install 'eokit[triton]'"
    needed = ".".join(map(str, TRITON_FROM))
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < TRITON_FROM:
        return False, f"triton is {version}, expected {needed} or later"
    return True, f"triton {version}"


def _triton_reason() -> str:
    if not TRITON:
        return _TRITON_REASON
    if INTERPRETED:
        return f"{_TRITON_REASON}, interpreted: TRITON_INTERPRET=1"
    return f"{_TRITON_REASON} for CUDA tensors" + (
        "" if torch.cuda.is_available() else ", but torch sees no CUDA device"
    )


def require_cuda(wanted_by: str) -> None:
    """Raise SetupError if the CUDA library is not there."""
    if not CUDA:
        raise SetupError(f"{wanted_by} needs the CUDA kernels, which are missing: {_CUDA_REASON}")


def _cuda_reason() -> str:
    """Why not, or where from; the driver is asked here, and not when eokit is imported."""
    blind = CUDA and not torch.cuda.is_available()
    return _CUDA_REASON + (", but torch sees no CUDA device" if blind else "")


def _load_cuda() -> tuple[bool, str]:
    """Load eokit/_C_cuda*.so into torch.ops.eokit_cuda; (True, where it is) or (False, why not)."""
    found = sorted(PACKAGE.glob("_C_cuda.*so")) + sorted(PACKAGE.glob("_C_cuda.*pyd"))
    if not found:
        return False, _why_not_built("_C_cuda")
    if torch.version.cuda is None:
        return False, f"{found[0].name} is there, but this torch has no CUDA"
    try:
        torch.ops.load_library(str(found[0]))
    except (OSError, RuntimeError) as error:
        return False, f"{found[0].name} does not load: {str(error).splitlines()[0]}"
    return True, f"kernels from {found[0].name} for CUDA tensors"


def _load_compiled() -> tuple[bool, str]:
    """Load eokit/_C*.so into torch.ops; (True, where it is) or (False, why not)."""
    if _REQUESTED == "reference":
        return False, "not loaded, EOKIT_BACKEND=reference"
    if INTERPRETED:
        return False, "not loaded, TRITON_INTERPRET=1 runs Triton kernels on a CPU in its place"
    found = sorted(PACKAGE.glob("_C.*so")) + sorted(PACKAGE.glob("_C.*pyd"))
    if not found:
        return False, _why_not_built("_C")
    try:
        torch.ops.load_library(str(found[0]))
    except (OSError, RuntimeError) as error:
        return False, f"{found[0].name} does not load: {str(error).splitlines()[0]}"
    used, wanted = torch.ops.eokit.select_instruction_set(""), os.environ.get("EOKIT_INSTRUCTION_SET") or None
    unknown = "" if wanted in (None, used) else f"; this CPU or build has no EOKIT_INSTRUCTION_SET={wanted}"
    return True, f"{used} kernels from {found[0].name}{unknown}"


def _why_not_built(library: str) -> str:
    try:
        reason = json.loads(BUILD_REPORT.read_text())[library]
    except (OSError, ValueError, KeyError):
        compiler = "a CUDA build of torch and nvcc" if library == "_C_cuda" else "a C++ compiler"
        reason = f"it was never built; install eokit with {compiler} on the path"
    return f"no compiled library in {PACKAGE}: {reason}"


_REQUESTED = os.environ.get("EOKIT_BACKEND") or None
COMPILED, _CPU_REASON = _load_compiled()
TRITON, _TRITON_REASON = _find_triton()
if not COMPILED:
    for _name, _schema in SCHEMAS.items():
        torch.library.define(f"eokit::{_name}", _schema)
for _name in CUDA_OPS:
    torch.library.define(f"eokit_cuda::{_name}", SCHEMAS[_name])
CUDA, _CUDA_REASON = _load_cuda()
