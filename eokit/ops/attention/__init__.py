"""Attention over the third dimension from the end of strided views: the one attention of all model families."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.attention import autograd, reference, sdpa, table
from eokit.ops.checks import FLOATING, check_device, check_number, check_tensors
from eokit.ops.wiring import has_autocast

__all__ = ["attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v per head, over the keys that `key_mask` allows.

    q: (..., Lq, H, D). k, v: (..., Lk, H, D), leading dimensions as those of q. Any strides: temporal attention over
        x (B, T, N, H, D) passes `x.transpose(1, 2)`, spatial attention x itself, a fused projection (B, T, N, 3, H, D)
        its `unbind(-3)`. Nothing is copied as long as the last dimension is contiguous; one that is not is copied.
    key_mask: bool, broadcastable to (..., Lk), True = attend; any pattern. Never expanded in memory. Dates (B, T) that
        all positions of x (B, N, T, H, D) share are (B, 1, T). What is stored under a masked key must be finite but
        changes nothing; a sequence without any valid key gives 0, and gradient 0.
    bias: floating, finite, added to the scores, broadcastable to (..., H, Lq, Lk); has a gradient.
    scale: 1 / sqrt(D) unless told.
    backend: "cpu" (compiled) or "triton" (on CUDA), both of float32, bfloat16 or float16; "cuda" of the last two;
        "sdpa", "reference"; None picks "cpu" where it can take the arguments, else "sdpa": no GPU has run the other
        kernels yet. The environment variable EOKIT_BACKEND replaces None, and gives way where it cannot.

    Returns (..., Lq, H, D) in the dtype of q, stored densely with its dimensions in the memory order of q (as
    `torch.empty_like(q)` is): temporal attention on a transposed view of (B, T, N, H, D) is stored as (B, T, N, H, D).
    Scores and sums are float32 (float64 for float64 inputs); in bfloat16 some kernels round the weights, as torch does.
    Under torch.autocast q, k and v are cast as for scaled_dot_product_attention. Gradients are deterministic, and the
    compiled backend gives the same bits for any number of threads.

    Raises ArgumentError naming the wrong argument, SetupError for backend="cpu" and "cuda" without their compiled
    library and for "triton" without Triton.
    """
    check_tensors(backend in ("reference", "sdpa"), q=q, k=k, v=v, key_mask=key_mask, bias=bias)
    if has_autocast(q) and q.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(q.device.type)
        with torch.autocast(q.device.type, enabled=False):
            return attention(
                q.to(dtype), k.to(dtype), v.to(dtype), key_mask=key_mask, bias=bias, scale=scale, backend=backend
            )
    _check_tensors(q, k, v)
    check_device("q", q, k=k, v=v, key_mask=key_mask, bias=bias)
    _check_mask_and_bias(q, k, key_mask, bias)
    scale = _checked_scale(scale, q.shape[-1])
    added = "bias" if bias is not None else "mask" if key_mask is not None else "nothing"
    chosen = _choose(backend, q, k, added, table.wants_gradients(q, k, v, bias))
    if chosen in KERNELS:
        if key_mask is not None:
            key_mask = key_mask.expand(*k.shape[:-2])
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        bias_t = None if bias is None else _transposed(bias, q.dim(), (k.shape[-3], q.shape[-3]))
        kernels = torch.ops.eokit_cuda if chosen == "cuda" else torch.ops.eokit
        return kernels.attention_forward(q, k, v, key_mask, bias_t, scale)[0]
    plain = sdpa.attention if chosen == "sdpa" else reference.attention
    return _stored_like(q, plain(q, k, v, key_mask=key_mask, bias=bias, scale=scale))


_ON_CUDA = f"on a CUDA device with heads of at most {autograd.WIDEST} features"
KERNELS: dict[str, tuple[Callable[[str], None], Callable[[Tensor], bool], str]] = {
    "cpu": (library.require_compiled, library.takes_compiled, "float32, bfloat16 or float16 on a CPU"),
    "triton": (library.require_triton, autograd.takes_triton, f"float32, bfloat16 or float16 {_ON_CUDA}"),
    "cuda": (
        library.require_cuda,
        autograd.takes_cuda,
        f"bfloat16 or float16 {_ON_CUDA} and at most {autograd.MOST_QUERIES:,} queries",
    ),
}
"""The backends with kernels of ours: what raises where one is missing, whether it takes q, and what it takes, in words.
"""

LONGEST = 350
"""Keys above which a GPU is bound by its products and no longer by its memory, where torch's flash kernel is the better
one, if it takes the arguments: it knows neither masks nor biases. By arithmetic for an H100 in bfloat16, not measured:
8 T D bytes at 3.35 TB/s take as long as 4 T^2 D operations at 60 % of 989 TFLOP/s when T is 354."""


def _choose(backend: str | None, q: Tensor, k: Tensor, added: str, gradients: bool) -> str:
    """The backend for these arguments; an explicit one is taken or refused, never replaced.

    added: one of `table.ADDED`. gradients: whether a backward pass can follow. On a GPU the measured table has the word
    where nothing was asked for.
    """
    if backend is not None and backend not in library.NAMES:
        raise ArgumentError(f"backend is {backend!r}, expected one of {', '.join(library.NAMES)} or None")
    if backend in KERNELS:
        _require(backend, q)
    if backend is not None:
        return backend
    wanted = library.default_backend()
    if wanted in (None, "cpu") and library.takes_compiled(q):
        return "cpu"
    flash = added == "nothing" and k.shape[-3] > LONGEST
    if library.wants_triton() and autograd.takes_triton(q) and not (wanted is None and flash):
        return "triton"
    if wanted == "cuda" and autograd.takes_cuda(q):
        return "cuda"
    if wanted is None and q.is_cuda:
        measured = table.fastest(q, k, added, gradients)
        return measured if measured in KERNELS and KERNELS[measured][1](q) else "sdpa"
    return wanted if wanted in ("reference", "sdpa") else "sdpa"


def _require(backend: str, q: Tensor) -> None:
    """SetupError where `backend`, one of `KERNELS`, is missing, ArgumentError where it does not take tensors like q."""
    require, takes, what = KERNELS[backend]
    require(f'backend="{backend}"')
    if not takes(q):
        found = f"{q.dtype} on {q.device.type} with {q.shape[-1]} features and {q.shape[-3]:,} queries"
        raise ArgumentError(f'backend="{backend}" takes {what}, found {found}; leave backend out')


def _transposed(bias: Tensor, dims: int, scores: tuple[int, int]) -> Tensor:
    """`bias` as the kernels read it: float32, contiguous (..., H, Lk, Lq), 1 where it is shared; `scores`: (Lk, Lq)."""
    bias = bias[(None,) * (dims - bias.dim())].transpose(-2, -1).float()
    return bias.expand(*bias.shape[:-2], *scores).contiguous()


def _stored_like(q: Tensor, out: Tensor) -> Tensor:
    """`out` with the dense strides of empty_like(q), copied only if it has others."""
    stored = torch.empty_like(q)
    return out if out.stride() == stored.stride() else stored.copy_(out)


MOST_LEADING = 16
"""Dimensions before Lq: as many as the C++ kernels unravel (kMaxLeading in csrc/common/strided.h)."""


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not 3 <= q.dim() <= 3 + MOST_LEADING:
        raise ArgumentError(
            f"q has shape {_shape(q)}, expected (..., Lq, H, D) with at most {MOST_LEADING} dimensions before Lq"
        )
    if q.dtype not in FLOATING:
        raise ArgumentError(f"q is {q.dtype}, expected a floating dtype of 16 bits or more")
    for name, x in (("k", k), ("v", v)):
        if x.dim() != q.dim() or x.shape[:-3] != q.shape[:-3] or x.shape[-2:] != q.shape[-2:]:
            like = ", ".join([*map(str, q.shape[:-3]), "Lk", *map(str, q.shape[-2:])])
            raise ArgumentError(f"{name} has shape {_shape(x)}, expected ({like}) to go with q {_shape(q)}")
        if x.dtype != q.dtype:
            raise ArgumentError(f"{name} is {x.dtype}, expected the dtype of q, {q.dtype}")
    if v.shape != k.shape:
        raise ArgumentError(f"v has shape {_shape(v)}, expected the shape of k, {_shape(k)}")


def _check_mask_and_bias(q: Tensor, k: Tensor, key_mask: Tensor | None, bias: Tensor | None) -> None:
    lead, (length, heads, _), keys = q.shape[:-3], q.shape[-3:], k.shape[-3]
    if key_mask is not None:
        if key_mask.dtype != torch.bool:
            raise ArgumentError(f"key_mask is {key_mask.dtype}, expected torch.bool with True where a key may be used")
        if key_mask.dim() < 1 or key_mask.shape[-1] != keys or not _broadcasts(key_mask.shape, (*lead, keys)):
            expected = f"one that broadcasts to {(*lead, keys)} and ends in {keys}"
            raise ArgumentError(f"key_mask has shape {_shape(key_mask)}, expected {expected}")
    if bias is not None:
        full = (*lead, heads, length, keys)
        if bias.dtype not in FLOATING:
            raise ArgumentError(f"bias is {bias.dtype}, expected a floating dtype of 16 bits or more")
        if not _broadcasts(bias.shape, full):
            raise ArgumentError(f"bias has shape {_shape(bias)}, expected one that broadcasts to {full}")


def _checked_scale(scale: float | None, dim: int) -> float:
    if scale is None:
        return 1.0 / math.sqrt(max(dim, 1))
    check_number("scale", scale)
    if abs(scale) > torch.finfo(torch.float32).max:
        raise ArgumentError(f"scale is {scale}, expected a number that float32 can hold")
    return float(scale)


def _broadcasts(shape: Sequence[int], full: Sequence[int]) -> bool:
    if len(shape) > len(full):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(full), strict=False))


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
