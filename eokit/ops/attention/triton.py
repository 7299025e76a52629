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
from eokit.ops.triton_support import PRECISION, Tuned, alignment, on_device_of, parts_of, upcasts

Tiles = dict[tuple[int, int, int], tuple[tuple[int, int, int, int], ...]]
"""(bytes of an element, most features of a head, least alignment of rows in bytes) ->
(BLOCK_Q, BLOCK_K, warps, stages), widest first; the first key that holds is taken.
"""

FORWARD: Tiles = {
    (2, 32, 8): ((64, 64, 4, 2), (32, 32, 2, 2), (16, 32, 1, 2), (16, 16, 1, 2)),
    (2, 64, 16): ((64, 32, 8, 2), (32, 32, 2, 2), (16, 32, 2, 2), (16, 16, 1, 2)),
    (2, 128, 16): ((64, 32, 4, 2), (32, 16, 2, 2), (16, 16, 2, 2)),
    (2, 64, 8): ((64, 32, 8, 2), (32, 32, 2, 2), (16, 16, 1, 2)),
    (2, 64, 2): ((32, 32, 4, 2), (16, 16, 1, 2)),
    (2, 128, 2): ((32, 16, 8, 2), (16, 16, 2, 2)),
    (4, 64, 4): ((32, 32, 8, 1), (16, 16, 4, 1)),
    (4, 128, 4): ((16, 16, 8, 1),),
}
BACKWARD: Tiles = {
    (2, 32, 2): ((32, 32, 4, 2), (16, 16, 1, 2)),
    (2, 64, 16): ((64, 32, 8, 2), (32, 32, 4, 2), (16, 16, 2, 2)),
    (2, 128, 16): ((32, 32, 8, 2), (32, 16, 4, 2), (16, 16, 2, 2)),
    (2, 64, 2): ((32, 32, 8, 2), (16, 16, 2, 2)),
    (2, 128, 2): ((32, 16, 8, 1), (16, 16, 4, 2)),
    (4, 128, 4): ((16, 16, 8, 1),),
}
GRAD_BIAS: Tiles = {
    (2, 128, 16): ((32, 32, 8, 2), (16, 16, 2, 2)),
    (2, 128, 8): ((16, 16, 4, 2),),
    (2, 128, 2): ((16, 16, 8, 1),),
    (4, 64, 16): ((32, 32, 8, 1),),
    (4, 128, 4): ((16, 16, 8, 1),),
}
"""Those of the tiles tried that need no stack on sm_80, sm_90 and sm_100, as tests/ops/test_triton_compile.py checks.

A head's keys are few, so that two stages of loads are enough; float32 spills with two.
Rows that start anywhere are loaded an element at a time, each with an address in two registers: 64 x 32 then spills
160 to 248 bytes in the backward pass of D = 64, hence narrower tiles. Warps are enough for a mask and a bias at once:
with half of them the backward pass (64 x 32, 32 x 16 at D = 128, 16 x 16 at D = 64, and float32) and the forward pass
(64 x 32 and 16 x 32 at D = 64, and float32) spill 8 to 56 bytes at some widths.
"""

REGISTERS = 255
"""The most a thread can have, allowed for by name: eight warps of them fit a multiprocessor.

Left to itself, ptxas spills 8 to 48 bytes for one more program on a multiprocessor. The price is fewer programs there;
which is the faster has not been timed.
"""


def configs_of(tiles: Tiles, size: int, head: int, align: int) -> list[Any]:
    """The configurations for elements of `size` bytes, heads padded to `head` features, rows that start at `align`."""
    fitting = next(
        some for (bytes_, most, least), some in tiles.items() if bytes_ == size and head <= most and align >= least
    )
    return [
        triton.Config({"BLOCK_Q": queries, "BLOCK_K": keys}, num_warps=warps, num_stages=stages, maxnreg=REGISTERS)
        for queries, keys, warps, stages in fitting
    ]


def _tuned(kernel: Any, tiles: Tiles) -> Tuned:
    """The kernel with the fastest of those configurations that are no wider than the sequence; at least one."""

    def fitting(given: dict[str, Any]) -> list[Any]:
        configs = configs_of(tiles, given["q"].element_size(), given["HEAD"], given["ALIGN"])
        lengths = {"BLOCK_Q": given["query_class"], "BLOCK_K": given["key_class"]}
        return [one for one in configs if all(one.kwargs[n] <= lengths[n] for n in lengths)] or configs[-1:]

    every = [one for key in tiles for one in configs_of(tiles, *key)]
    return Tuned(kernel, every, ["HEAD", "ALIGN", "query_class", "key_class"], fitting)


_forward_kernel = _tuned(attention_forward_kernel, FORWARD)
_backward_kernel = _tuned(attention_backward_kernel, BACKWARD)
_grad_bias_kernel = _tuned(attention_grad_bias_kernel, GRAD_BIAS)


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
        strides = (*map(_strides, (*inputs[:3], folded)), *fold.own_strides)
        with on_device_of(q):
            _forward_kernel[lambda meta: (fold.items * triton.cdiv(length, meta["BLOCK_Q"]),)](
                *inputs, folded, lse, *strides, fold.inner, heads, length, k.shape[-3], scale, *_classes(q, k),
                **_constants(*inputs[:3], folded),
            )  # fmt: skip
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
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    wanted = bias_t if with_bias else None
    grad_bias = q.new_empty(0, dtype=torch.float32) if wanted is None else torch.zeros_like(wanted)
    if lse.numel() + k.numel():
        fold = _Fold([grad_out, q, k, v, out, *grads], key_mask, bias_t)
        folded = [fold.rows(x) for x in grads]
        given = [fold.rows(x) for x in (grad_out, q, k, v, out)]
        inputs = (*given[:4], fold.key_mask, fold.bias_t, given[4], lse)
        strides = tuple(map(_strides, given))
        lengths = q.shape[-3], k.shape[-3]

        def grid(meta: dict[str, int]) -> tuple[int]:
            tiles = triton.cdiv(lengths[0], meta["BLOCK_Q"]) + triton.cdiv(lengths[1], meta["BLOCK_K"])
            return (fold.items * tiles,)

        with on_device_of(q):
            _backward_kernel[grid](
                *inputs, *folded, *strides, *map(_strides, folded), *fold.own_strides, fold.inner, q.shape[-2],
                *lengths, scale, *_classes(q, k), **_constants(*given, *folded),
            )  # fmt: skip
            if wanted is not None and wanted.numel() and lse.numel():
                rest = (scale, *_classes(q, k))
                grad_bias = _grad_bias(fold, inputs, strides, lengths, rest, _constants(*given)).view_as(wanted)
        for one, grad in zip(folded, grads, strict=True):
            _put_back(one, grad)
    return *grads, grad_bias


def _grad_bias(
    fold: _Fold,
    inputs: tuple[Any, ...],
    strides: tuple[Any, ...],
    lengths: tuple[int, int],
    rest: tuple[float, ...],
    constants: dict[str, Any],
) -> Tensor:
    """The sum of dS^T over all that share a bias, in parts of fixed extent that are added in order."""
    sizes = (fold.outer, fold.inner, fold.heads)
    shared = [size if stride == 0 else 1 for size, stride in zip(sizes, fold.bias_strides, strict=True)]
    own = [size // times for size, times in zip(sizes, shared, strict=True)]
    parts = parts_of(math.prod(shared), math.prod(own) * math.prod(lengths))
    sums = inputs[1].new_empty((*own, parts, lengths[1], lengths[0]), dtype=torch.float32)

    def grid(meta: dict[str, int]) -> tuple[int]:
        tiles = triton.cdiv(lengths[0], meta["BLOCK_Q"]) * triton.cdiv(lengths[1], meta["BLOCK_K"])
        return (math.prod(own) * parts * tiles,)

    _grad_bias_kernel[grid](
        *inputs, sums, *strides, *fold.own_strides, *own[1:], math.prod(shared), *shared[1:], fold.inner, fold.heads,
        parts, *lengths, *rest, **constants,
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
        self.key_mask: Tensor | None = None
        self.mask_strides: tuple[int, ...] = (0, 0, 0)
        if key_mask is not None:
            self.key_mask = key_mask.reshape(self.outer, self.inner, -1).view(torch.uint8)
            self.mask_strides = self.key_mask.stride()
        self.bias_t, self.bias_strides, self.bias_shape = None, (0, 0, 0), None
        if whole is not None and bias_t is not None:
            self.bias_t = self.rows(whole)
            outer, inner, head, *_ = self.bias_t.stride()
            self.bias_strides = (outer, inner, head)
            if self.bias_t.data_ptr() != bias_t.data_ptr():  # a copy, which shares nothing any more
                self.whole_bias, self.bias_shape = whole.shape, bias_t.shape
        self.own_strides = (*self.mask_strides, *self.bias_strides)  # (outer, inner, key) and (outer, inner, head)

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


def _constants(*rows: Tensor) -> dict[str, Any]:
    """What the kernels are compiled for; rows: all that they read and write as rows of D features."""
    dim = rows[0].shape[-1]
    return {
        "DIM": dim,
        "HEAD": max(16, triton.next_power_of_2(dim)),  # the least that a product takes
        "ALIGN": alignment(*rows),
        "PRECISION": PRECISION,
        "UPCAST": upcasts(rows[0]),
    }


def _classes(q: Tensor, k: Tensor) -> tuple[int, int]:
    """The lengths by their power of two, for which configurations are chosen: above 128 no tile is wider."""
    return _length_class(q.shape[-3]), _length_class(k.shape[-3])


def _length_class(length: int) -> int:
    return min(max(16, triton.next_power_of_2(length)), 128)
