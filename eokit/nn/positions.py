"""Where and when a token is: fixed 2-D sine-cosine codes for places, a learned table for the day of the year.

Called by the encoders and by the predictor of JEPA. Lengths are counted in tokens from the upper left corner of the
image, so a code can be computed for any grid; the same distance in tokens means the same distance on the ground as
long as patch size and ground sampling distance stay those of the training, which a bundle's preprocessing guards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eokit.errors import ArgumentError

DAYS_OF_YEAR = 366
MARCH_0000 = 719_468
"""Days from 0000-03-01 to 1970-01-01 (proleptic Gregorian)."""
ERA = 146_097
"""Days in 400 Gregorian years."""
FASTEST_HARMONIC = 36
"""Periods a year of the fastest code in a new day table: about 10 days, the revisit of one Sentinel-2."""


def day_of_year(days: Tensor) -> Tensor:
    """Days since 1970-01-01, any shape, integer -> day of the year as int64, 0 for 1 January, up to 365.

    Integer arithmetic on a calendar whose years begin in March, so that the leap day is the last of its year.
    """
    since = days.long() + MARCH_0000
    era = since.div(ERA, rounding_mode="floor")
    in_era = since - era * ERA
    leap_days = (in_era // 1_460) - (in_era // 36_524) + (in_era // (ERA - 1))
    year = (in_era - leap_days) // 365  # March-based year of the era, 0..399
    since_march = in_era - (365 * year + year // 4 - year // 100)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year == 0))
    march_first = 59 + leap.long()  # the day of the year that 1 March is
    return torch.where(since_march >= 306, since_march - 306, since_march + march_first)


def space_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Fixed code of a grid of tokens: (height * width, channels) float32, row by row.

    Half of the channels tell the row, half the column, each as sines and cosines of wavelengths from 2 pi to
    2 pi x 10,000 tokens (as ViT, MAE and I-JEPA do). `channels` must be a multiple of 4.
    """
    if channels % 4:
        raise ArgumentError(f"width {channels} is not a multiple of 4, which the 2-D position code needs")
    rate = 10_000.0 ** -(torch.arange(channels // 4, device=device, dtype=torch.float32) * 4 / channels)
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None] * rate
    columns = torch.arange(width, device=device, dtype=torch.float32)[:, None] * rate
    rows = torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(height, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], -1)[None].expand(height, width, -1)
    return torch.cat([rows, columns], -1).reshape(height * width, channels)


class DayOfYear(nn.Module):
    """A learned vector for each of 366 days of the year.

    The table starts as sines and cosines of 1 to 36 periods a year, not as noise: neighbouring days start alike, and a
    day that training never showed (another year, another orbit) still means its season.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # Whole numbers of periods, so that December meets January.
        periods = torch.logspace(0, math.log10(FASTEST_HARMONIC), (width + 1) // 2).round()
        angle = 2 * math.pi / DAYS_OF_YEAR * torch.arange(DAYS_OF_YEAR)[:, None] * periods
        self.table = nn.Parameter(torch.cat([angle.sin(), angle.cos()], -1)[:, :width].contiguous())

    def forward(self, days: Tensor) -> Tensor:
        """days: (B, T) days since 1970-01-01 -> (B, T, width)."""
        return nn.functional.embedding(day_of_year(days), self.table)


class SpaceTimePositions(nn.Module):
    """Adds to each token its place (fixed) and its day (learned)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.days = DayOfYear(width)

    def forward(self, x: Tensor, days: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (B, T, N, D), days: (B, T), grid: (h, w) with h * w = N -> (B, T, N, D)."""
        space = space_code(*grid, x.shape[-1], device=x.device)
        return x + space + self.days(days)[:, :, None]
