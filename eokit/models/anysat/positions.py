"""Where a token of AnySat lies: sine-cosine codes in metres or patches, distance buckets of the attention bias, dates.

The formulas are those of the published code, which differ from the paper's appendix: sines and cosines are blocks, not
interleaved, and the first half of the channels tells the column.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

BUCKETS = 8
"""Rows of the published table; a distance falls into rows 3 to 6, a pair with a token of no place into row 7."""
NEAR, MIDDLE = 2, 12
"""Largest squared distances of rows 4 and 5: the piecewise index of iRPE (Wu et al., ICCV 2021) with alpha 1.9, beta
3.8, gamma 15.2 on whole distances."""
PLACELESS = 7


def grid_code(grid: tuple[int, int], step: float, width: int, device: torch.device | None = None) -> Tensor:
    """Code of h x w places, `step` units apart: (h * w, width) float32, row by row.

    e(p) = [sin(p w_k), cos(p w_k)], w_k = 10000^(-k / (width / 4)); [e(column), e(row)].
    """
    quarter = width // 4
    rate = 10_000.0 ** -(torch.arange(quarter, device=device, dtype=torch.float64) / quarter)

    def line(length: int) -> Tensor:
        angle = torch.arange(length, device=device, dtype=torch.float64)[:, None] * step * rate
        return torch.cat([angle.sin(), angle.cos()], -1).float()  # (length, width / 2)

    h, w = grid
    columns, rows = line(w).expand(h, -1, -1), line(h)[:, None].expand(-1, w, -1)
    return torch.cat([columns, rows], -1).reshape(h * w, width)


def buckets(grid: tuple[int, int], placeless: int, device: torch.device | None = None) -> Tensor:
    """Row of the table for each pair of `placeless` tokens and h x w places after them: (L, L) int64."""

    def squared(length: int) -> Tensor:
        line = torch.arange(length, device=device)
        return (line[:, None] - line).square()

    count = grid[0] * grid[1]
    distance = (squared(grid[0])[:, None, :, None] + squared(grid[1])[None, :, None, :]).reshape(count, count)
    table = torch.full((placeless + count,) * 2, PLACELESS, device=device)
    table[placeless:, placeless:] = 3 + (distance > 0).long() + (distance > NEAR) + (distance > MIDDLE)
    return table


def bucket_choice(index: Tensor) -> Tensor:
    """(Lq, Lk) rows of the table -> (Lq, BUCKETS, Lk) float32, 1 where the pair has that row."""
    return one_hot(index, BUCKETS).movedim(-1, -2).float()


def date_code(dates: Tensor, width: int, period: int) -> Tensor:
    """Code of dates (B, T), in days: (B, T, width), sines on even and cosines on odd channels.

    Angles are date / period^(2 floor(i / 2) / width) (L-TAE, Garnot and Landrieu 2020).
    """
    channel = torch.arange(width, device=dates.device)
    angle = dates.float()[..., None] / period ** (2 * (channel // 2).float() / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
