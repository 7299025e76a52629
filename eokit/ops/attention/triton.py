"""`eokit::attention_*` in Triton: any strides, masks and biases become the arguments of the kernels beside this file.

`autograd.py` calls this for CUDA tensors, and for CPU tensors under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from eokit.ops.attention.sdpa import is_view
from eokit.ops.attention.triton_kernels import (
    attention_backward_kernel,
    attention_forward_kernel,
    attention_grad_bias_kernel,
)
from eokit.ops.triton_support import PRECISION, on_device_of, parts_of, tuned, upcasts


def _configs(*tiles: tuple[int, int, int]) -> list[Any]:
    """Of (BLOCK_Q, BLOCK_K, warps), the widest first; two stages: a head's keys are few, more would only fill up."""
    return [
        triton.Config({"BLOCK_Q": queries, "BLOCK_K": keys}, num_warps=warps, num_stages=2)
        for queries, keys, warps in tiles
    ]


FORWARD = _configs((64, 64, 4), (64, 32, 4), (32, 32, 2), (16, 32, 1), (16, 16, 1))
BACKWARD = _configs((64, 32, 4), (32, 32, 4), (32, 32, 2), (16, 16, 1))
GRAD_BIAS = _configs((64, 32, 4), (32, 32, 4), (16, 16, 1))
"""Without a stack for every HEAD and dtype that `fitting` lets them have; tests/ops/test_triton_compile.py holds it."""

MOST_ELEMENTS = {2: 64 * 128, 4: 32 * 64}
"""Bytes of an element -> the most elements of a tile of queries or keys of one head: beyond, registers spill."""


def fitting(configs: list[Any], arguments: dict[str, Any], **rest: Any) -> list[Any]:
    """The configurations that hold HEAD features without spilling and no more than the sequence needs; at least one."""
    given = arguments | rest
    head, most = given["HEAD"], MOST_ELEMENTS[given["q"].element_size()]
    small = [one for one in configs if max(one.kwargs.values()) * head <= most] or configs[-1:]
    narrow = [one for one in small if one.kwargs["BLOCK_Q"] <= given["QUERIES"] and one.kwargs["BLOCK_K"] <= given["KEYS"]]
    return narrow or small[-1:]


_KEY = ["HEAD", "QUERIES", "KEYS"]
_forward_kernel = tuned(FORWARD, _KEY, fitting)(attention_forward_kernel)
_backward_kernel = tuned(BACKWARD, _KEY, fitting)(attention_backward_kernel)
_grad_bias_kernel = tuned(GRAD_BIAS, _KEY, fitting)(attention_grad_bias_kernel)


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, bias_t: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Out, stored as q is, and lse (..., H, Lq); see csrc/library.cpp for the arguments."""
    out, (length, heads, _) = torch.empty_like(q), q.shape[-3:]
    lse = q.new_empty((*q.shape[:-3], heads, length), dtype=torch.float32)
    if lse.numel():
        fold = _Fold([q, k, v, out], key_mask, bias_t)
        folded = fold.rows(out)
        inputs = (fold.rows(q), fold.rows(k), fold.rows(v), fold.key_mask, fold.bias_t)
        strides = (*map(_strides, inputs[:3]), fold.mask_strides, fold.bias_strides, _strides(folded))
        with on_device_of(q):
            _forward_kernel[lambda meta: (fold.items * triton.cdiv(length, meta["BLOCK_Q"]),)](
                *inputs, folded, lse, *strides, fold.inner, heads, length, k.shape[-3], scale, **_constants(q, k)
            )
        _put_back(folded, out)
    return out, lse


def attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    bias_t: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    with_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and bias_t, each stored as what it belongs to; see csrc/library.cpp."""
    if grad_out.stride(-1) != 1:
        grad_out = grad_out.contiguous()  # of a sum: all strides are 0
    grads = [torch.empty_like(x) for x in (q, k, v)]
    with_bias = with_bias and bias_t is not None
    grad_bias = torch.zeros_like(bias_t) if with_bias else q.new_empty(0, dtype=torch.float32)
    if lse.numel() + k.numel():
        fold = _Fold([grad_out, q, k, v, out, *grads], key_mask, bias_t)
        folded = [fold.rows(x) for x in grads]
        given = [fold.rows(x) for x in (grad_out, q, k, v, out)]
        inputs = (*given[:4], fold.key_mask, fold.bias_t, given[4], lse)
        strides = (*map(_strides, given[:4]), fold.mask_strides, fold.bias_strides, _strides(given[4]))
        lengths = q.shape[-3], k.shape[-3]

        def grid(meta: dict[str, int]) -> tuple[int]:
            tiles = triton.cdiv(lengths[0], meta["BLOCK_Q"]) + triton.cdiv(lengths[1], meta["BLOCK_K"])
            return (fold.items * tiles,)

        with on_device_of(q):
            _backward_kernel[grid](
                *inputs, *folded, *strides, *map(_strides, folded), fold.inner, q.shape[-2], *lengths, scale,
                **_constants(q, k),
            )  # fmt: skip
            if with_bias and grad_bias.numel() and lse.numel():
                grad_bias = _grad_bias(fold, inputs, strides, lengths, scale, _constants(q, k)).view_as(bias_t)
        for one, grad in zip(folded, grads, strict=True):
            _put_back(one, grad)
    return *grads, grad_bias


def _grad_bias(
    fold: _Fold,
    inputs: tuple[Any, ...],
    strides: tuple[Any, ...],
    lengths: tuple[int, int],
    scale: float,
    constants: dict[str, Any],
) -> Tensor:
    """The sum of dS^T over all that share a bias, in parts of fixed extent that are added in order."""
    sizes, bias_strides = (fold.outer, fold.inner, fold.heads), fold.bias_strides
    shared = [size if stride == 0 else 1 for size, stride in zip(sizes, (*bias_strides[:2], bias_strides[3]), strict=True)]
    own = [size // times for size, times in zip(sizes, shared, strict=True)]
    parts = parts_of(math.prod(shared), math.prod(own) * math.prod(lengths))
    sums = inputs[1].new_empty((*own, parts, lengths[1], lengths[0]), dtype=torch.float32)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(lengths[0], meta["BLOCK_Q"]) * triton.cdiv(lengths[1], meta["BLOCK_K"])
        return (math.prod(own) * parts * tiles,)

    _grad_bias_kernel[grid](
        *inputs, sums, *strides, *own[1:], math.prod(shared), *shared[1:], fold.inner, fold.heads, parts, *lengths, scale,
        **constants,
    )  # fmt: skip
    grad = sums.sum(3)  # (outer, inner, H, Lk, Lq), each its own or 1
    return grad if fold.bias_shape is None else grad.reshape(fold.whole_bias).sum_to_size(fold.bias_shape)


class _Fold:
    """The leading dimensions of all tensors as two (outer, inner): as views where strides allow it, else as copies."""

    def __init__(self, tensors: list[Tensor], key_mask: Tensor | None, bias_t: Tensor | None) -> None:
        """tensors: (..., L, H, D). key_mask: (..., Lk). bias_t: (..., H, Lk, Lq) with 1 where it is shared."""
        lead, self.heads = tensors[0].shape[:-3], tensors[0].shape[-2]
        whole = None if bias_t is None else bias_t.expand(*lead, self.heads, *bias_t.shape[-2:])
        self.split = _split(len(lead), [x for x in (*tensors, key_mask, whole) if x is not None])
        self.outer, self.inner = math.prod(lead[: self.split]), math.prod(lead[self.split :])
        self.items = self.outer * self.inner * self.heads
        self.key_mask, self.mask_strides = None, (0, 0, 0)
        if key_mask is not None:
            self.key_mask = key_mask.reshape(self.outer, self.inner, -1).view(torch.uint8)
            self.mask_strides = self.key_mask.stride()
        self.bias_t, self.bias_strides, self.bias_shape = None, (0, 0, 0, 0), None
        if whole is not None and bias_t is not None:
            self.bias_t = self.rows(whole)
            outer, inner, head, *_ = self.bias_t.stride()
            self.bias_strides = (outer, inner, 0, head)
            if self.bias_t.data_ptr() != bias_t.data_ptr():  # a copy, which shares nothing any more
                self.whole_bias, self.bias_shape = whole.shape, bias_t.shape

    def rows(self, x: Tensor) -> Tensor:
        """(..., three dimensions) -> (outer, inner, three dimensions)."""
        return x.reshape(self.outer, self.inner, *x.shape[-3:])


def _split(count: int, tensors: list[Tensor]) -> int:
    """Where to cut the `count` leading dimensions in two so that the dimensions of each side merge without a copy."""
    for split in range(count, -1, -1):
        if all(is_view(x, range(split)) and is_view(x, range(split, count)) for x in tensors):
            return split
    return count


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of (outer, inner, L, H, D) the first four; the last is 1."""
    return x.stride()[:4]


def _put_back(folded: Tensor, x: Tensor) -> None:
    """What a kernel wrote into `folded` into x, unless that is a view of it."""
    if folded.data_ptr() != x.data_ptr():
        x.copy_(folded.view(x.shape))


def _constants(q: Tensor, k: Tensor) -> dict[str, Any]:
    """What the kernels are compiled for; lengths by their power of two, for which configurations are chosen."""
    dim = q.shape[-1]
    return {
        "DIM": dim,
        "HEAD": max(16, triton.next_power_of_2(dim)),  # the least that a product takes
        "QUERIES": _length_class(q.shape[-3]),
        "KEYS": _length_class(k.shape[-3]),
        "PRECISION": PRECISION,
        "UPCAST": upcasts(q),
    }


def _length_class(length: int) -> int:
    return min(max(16, triton.next_power_of_2(length)), 128)
