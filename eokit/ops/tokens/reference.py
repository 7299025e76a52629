"""Gathering and scattering of tokens in plain torch: what every backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor


def invert_index(index: Tensor, length: int) -> Tensor:
    """index: int64 (B, K) -> int64 (B, length): where a token is in index, -1 if nowhere."""
    inverse = index.new_full((index.shape[0], length), -1)
    places = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return inverse.scatter(1, index, places)


def map_rows(source: Tensor, map: Tensor, fill: Tensor | None, positions: Tensor | None, by_output: bool) -> Tensor:
    """out[b, r] = (source[b, map[b, r]], or fill where that is negative) + positions; see csrc/library.cpp."""
    batch = torch.arange(source.shape[0], device=source.device)[:, None]
    nothing = source.new_zeros(source.shape[-1]) if fill is None else fill
    known = (map >= 0)[..., None]
    picked = source[batch, map.clamp(min=0)] if source.shape[1] else nothing + source.sum()  # no row: the sum is 0
    out = torch.where(known, picked, nothing)
    if positions is None:
        return out
    rows = torch.arange(map.shape[1], device=map.device).expand_as(map) if by_output else map
    rows = rows % positions.shape[-2]
    added = positions[rows] if positions.dim() == 2 else positions[batch, rows]
    return out + (added if by_output else torch.where(known, added, 0.0))


def sum_unmapped(rows: Tensor, map: Tensor) -> Tensor:
    """rows: (B, R, D), map: int64 (B, R) -> (D) at least float32: the sum of the rows whose map is negative."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return torch.where((map < 0)[..., None], rows.to(wide), 0.0).sum((0, 1))


def gather_gradients(grad: Tensor, inverse: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """grad: (B, K, D) of gathered tokens -> (B, L, D) of the tokens, (L, D) of positions that the batch shares.

    inverse: int64 (B, L), as `invert_index` has it. Sums are at least float32.
    """
    x = map_rows(grad, inverse, None, None, by_output=True)
    return x, x.to(torch.promote_types(grad.dtype, torch.float32)).sum(0)


def scatter_gradients(grad: Tensor, inverse: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """grad: (B, L, D) of scattered tokens -> (B, K, D) of the visible ones, (D) of the mask token, (L, D) of positions.

    index: int64 (B, K), inverse: int64 (B, L). Sums are at least float32.
    """
    visible = map_rows(grad, index, None, None, by_output=False)
    wide = torch.promote_types(grad.dtype, torch.float32)
    return visible, sum_unmapped(grad, inverse), grad.to(wide).sum(0)


def gather_tokens(x: Tensor, index: Tensor, pos: Tensor | None) -> Tensor:
    """x[b, index[b, k]] + pos[index[b, k]], as `eokit.ops.gather_tokens` says."""
    return map_rows(x, index, None, pos, by_output=False)


def scatter_tokens(visible: Tensor, index: Tensor, length: int, mask_token: Tensor, pos: Tensor | None) -> Tensor:
    """Visible tokens at their places, mask_token elsewhere, + pos, as `eokit.ops.scatter_tokens` says."""
    return map_rows(visible, invert_index(index, length), mask_token, pos, by_output=True)
