"""From pixels to tokens: which patches were seen, and a linear projection of each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eokit.errors import ArgumentError
from eokit.nn.blocks import linear

SEEN_SHARE = 0.5
"""A patch counts as seen on a date where at least this share of its pixels is valid."""


def patch_grid(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """(h, w) patches of an image; an ArgumentError where its sides are not multiples of the patch size."""
    if height % patch_size or width % patch_size or not height or not width:
        raise ArgumentError(
            f"an image of {height} x {width} pixels does not divide into patches of {patch_size};"
            f" pad or crop it to multiples of {patch_size}"
        )
    return height // patch_size, width // patch_size


def seen_patches(valid: Tensor, patch_size: int) -> Tensor:
    """valid: (B, T, H, W) bool -> (B, T, h * w) bool, True where at least half of a patch's pixels are valid."""
    *lead, height, width = valid.shape
    h, w = patch_grid(height, width, patch_size)
    cells = valid.reshape(*lead, h, patch_size, w, patch_size)
    share = cells.float().mean((-3, -1))  # exact: a count below 2^24 over a count; halves are binary fractions
    return (share >= SEEN_SHARE).flatten(-2)


class PatchEmbedding(nn.Module):
    """One linear map of the pixels of a patch; invalid pixels count as 0, the mean of the normalised bands."""

    def __init__(self, bands: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.bands, self.patch_size = bands, patch_size
        inputs = bands * patch_size**2
        # Unit variance for normalised bands: with the 0.02 of the other layers the pixels would drown in the position
        # codes, whose variance is 1/2 each.
        self.projection = linear(inputs, width, std=inputs**-0.5)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values: (B, T, C, H, W), valid: (B, T, H, W) bool -> (B, T, h * w, D)."""
        batch, dates, bands, height, width = values.shape
        h, w = patch_grid(height, width, self.patch_size)
        values = torch.where(valid[:, :, None], values, 0.0)  # also where an invalid pixel holds NaN
        cells = values.view(batch, dates, bands, h, self.patch_size, w, self.patch_size)
        rows = cells.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, dates, h * w, bands * self.patch_size**2)
        return self.projection(rows)
