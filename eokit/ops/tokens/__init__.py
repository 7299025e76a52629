"""Tokens that are picked out of a grid, and put back into it: what masked pretraining does with every batch."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.checks import FLOATING, INTEGERS, check_device, check_tensors, check_whole
from eokit.ops.tokens import autograd, reference  # noqa: F401  (autograd registers the ops)

__all__ = ["gather_tokens", "scatter_tokens"]


def gather_tokens(x: Tensor, index: Tensor, pos: Tensor | None = None, *, offsets: Tensor | None = None) -> Tensor:
    """The tokens index[b] of every sample b, each with its position added: x[b, index[b, k]] + pos[index[b, k]].

    x: (B, L, D), a contiguous last dimension. index: int (B, K), no token twice in a sample.
    pos: (L, D), shared, or (B, L, D); rounded to the dtype of x.
    offsets: int (B + 1,), for a different number of tokens per sample: index is then (N,), and sample b has
        offsets[b] to offsets[b + 1] of it.

    Returns (B, K, D), or (N, D) with offsets, in the dtype of x. One pass forward and one back; gradients for x and
    pos, deterministic. float32, bfloat16 and float16 on a CPU are compiled, everything else is plain torch.

    Raises ArgumentError naming the wrong argument; an index out of range or repeated is found on a CPU always,
    elsewhere with EOKIT_CHECK=1.
    """
    check_tensors(x=x, index=index, pos=pos, offsets=offsets)
    _check_tokens("x", x)
    check_device("x", x, index=index, pos=pos, offsets=offsets)
    batch, length, dim = x.shape
    _check_positions(pos, x, batch, length)
    if offsets is None:
        index = _checked_index(index, (batch, None))
    else:
        _check_offsets(offsets, batch)
        index = _across(_checked_index(index, (None,)), offsets, batch, length)
        x = x.reshape(1, batch * length, dim)
        pos = pos.reshape(1, batch * length, dim) if pos is not None and pos.dim() == 3 else pos
    pos = None if pos is None else pos.to(x.dtype).contiguous()
    inverse = _inverse(index, x.shape[1], length, x)
    out = _map_rows(x, index, inverse, None, pos, by_output=False)
    return out if offsets is None else out[0]


def scatter_tokens(
    visible: Tensor,
    index: Tensor,
    length: int,
    mask_token: Tensor,
    pos: Tensor | None = None,
    *,
    offsets: Tensor | None = None,
) -> Tensor:
    """The grid of every sample b: visible[b, k] at index[b, k], mask_token elsewhere, positions added everywhere.

    visible: (B, K, D), or (N, D) with offsets, a contiguous last dimension. index, offsets: as for `gather_tokens`.
    mask_token: (D,). pos: (length, D) or (B, length, D). mask_token and pos are rounded to the dtype of visible.

    Returns (B, length, D). Gradients for visible, mask_token and pos; otherwise as `gather_tokens`.
    """
    check_tensors(visible=visible, index=index, mask_token=mask_token, pos=pos, offsets=offsets)
    check_device("visible", visible, index=index, mask_token=mask_token, pos=pos, offsets=offsets)
    check_whole("length", length, least=0)
    if offsets is None:
        _check_tokens("visible", visible)
        batch, count, dim = visible.shape
        index = _checked_index(index, (batch, count))
    else:
        if visible.dim() != 2:
            raise ArgumentError(f"visible has shape {tuple(visible.shape)}, expected (N, D) to go with offsets")
        _check_tokens("visible", visible[None])
        _check_offsets(offsets, None)
        batch, dim = len(offsets) - 1, visible.shape[-1]
        index = _across(_checked_index(index, (len(visible),)), offsets, batch, length)
        visible = visible[None]
    if mask_token.shape != (dim,) or mask_token.dtype not in FLOATING:
        raise ArgumentError(f"mask_token is {mask_token.dtype} {tuple(mask_token.shape)}, expected floating ({dim},)")
    _check_positions(pos, visible, batch, length)
    if offsets is not None and pos is not None and pos.dim() == 3:
        pos = pos.reshape(1, batch * length, dim)
    pos = None if pos is None else pos.to(visible.dtype).contiguous()
    inverse = _inverse(index, length if offsets is None else batch * length, length, visible)
    mask_token = mask_token.to(visible.dtype).contiguous()
    out = _map_rows(visible, inverse, index, mask_token, pos, by_output=True)
    return out if offsets is None else out.view(batch, length, dim)


def _map_rows(
    x: Tensor, map: Tensor, back: Tensor, fill: Tensor | None, pos: Tensor | None, *, by_output: bool
) -> Tensor:
    if library.runs_cuda(x):
        return torch.ops.eokit_cuda.map_rows(x, map, back, fill, pos, by_output)
    if library.runs_kernels(x):
        return torch.ops.eokit.map_rows(x, map, back, fill, pos, by_output)
    return reference.map_rows(x, map, fill, pos, by_output)


def _inverse(index: Tensor, length: int, each: int, tokens: Tensor) -> Tensor:
    """The way back, the index checked on the way; made by the kernels that take `tokens`.

    each: tokens of a sample; more than one may stand in a row.
    """
    on_cpu = index.device.type == "cpu"
    if on_cpu and library.COMPILED:
        try:
            return torch.ops.eokit.invert_index(index, length)
        except RuntimeError:
            wrong = _what_is_wrong(index, length, each)
            raise ArgumentError(wrong or f"length: no memory for the way back from {length:,} tokens") from None
    wanted = on_cpu or os.environ.get("EOKIT_CHECK") == "1"
    if wanted and not torch.compiler.is_compiling() and (wrong := _what_is_wrong(index, length, each)):
        raise ArgumentError(wrong)
    if index.is_cuda and library.runs_cuda(tokens):
        return torch.ops.eokit_cuda.invert_index(index, length)
    return torch.ops.eokit.invert_index(index, length)


def _what_is_wrong(index: Tensor, length: int, each: int) -> str | None:
    """The first token of `index` (B, K) that is outside 0..length - 1, or comes twice in a row, if there is one."""
    outside = (index < 0) | (index >= length)
    if bool(outside.any()):
        row, place = outside.nonzero()[0].tolist()
        return f"index: {index[row, place]} at {(row, place)} is outside 0..{length - 1}"
    in_order = index.sort(dim=-1).values
    twice = (in_order[:, 1:] == in_order[:, :-1]).nonzero()
    if not len(twice):
        return None
    row, place = twice[0].tolist()
    sample, token = divmod(row * length + int(in_order[row, place]), each)
    return f"index: {token} comes twice in sample {sample}"


def _across(index: Tensor, offsets: Tensor, batch: int, length: int) -> Tensor:
    """The ragged index (N,) as one (1, N) over the tokens of all samples."""
    counts = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(index) or bool((counts < 0).any()):
        raise ArgumentError(f"offsets are {offsets.tolist()}, expected them to rise from 0 to {len(index)}")
    outside = (index < 0) | (index >= length)
    if bool(outside.any()):
        place = int(outside.nonzero()[0])
        raise ArgumentError(f"index: {index[place]} at {place} is outside 0..{length - 1}")
    samples = torch.arange(batch, device=index.device).repeat_interleave(counts.to(index.device))
    return (index + samples * length)[None]


def _check_offsets(offsets: Tensor, batch: int | None) -> None:
    """batch: the number of samples, None if only the offsets know it."""
    expected = "(B + 1,)" if batch is None else f"({batch + 1},)"
    if offsets.dim() != 1 or offsets.dtype not in INTEGERS or not len(offsets) or batch not in (None, len(offsets) - 1):
        raise ArgumentError(f"offsets is {offsets.dtype} {tuple(offsets.shape)}, expected integers {expected}")


def _check_tokens(name: str, x: Tensor) -> None:
    if x.dim() != 3 or x.dtype not in FLOATING:
        raise ArgumentError(f"{name} is {x.dtype} {tuple(x.shape)}, expected floating tokens (B, L, D)")
    if x.numel() and x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ArgumentError(f"{name} has strides {x.stride()}, expected a contiguous last dimension")


def _checked_index(index: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    expected = tuple("N" if n is None else n for n in shape)
    if index.dtype not in INTEGERS:
        raise ArgumentError(f"index is {index.dtype}, expected integers")
    if index.dim() != len(shape) or any(n not in (None, m) for n, m in zip(shape, index.shape, strict=True)):
        raise ArgumentError(f"index has shape {tuple(index.shape)}, expected ({', '.join(map(str, expected))})")
    return index.long().contiguous()


def _check_positions(pos: Tensor | None, x: Tensor, batch: int, length: int) -> None:
    if pos is None:
        return
    dim = x.shape[-1]
    if pos.shape not in ((length, dim), (batch, length, dim)) or pos.dtype not in FLOATING:
        found = f"{pos.dtype} {tuple(pos.shape)}"
        raise ArgumentError(f"pos is {found}, expected floating {(length, dim)} or {(batch, length, dim)}")
