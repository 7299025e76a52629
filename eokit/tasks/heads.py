"""Segmentation heads: from patch features to one logit per class and pixel. Both take any encoder's Features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.models.base import Features

CONV_WIDTH, CONV_WIDTH_MIN = 128, 32
"""Channels of the convolutional head on the token grid, halved at each doubling of the grid down to the least."""


class LinearHead(nn.Module):
    """One linear layer per patch token, its logits upsampled bilinearly to pixels."""

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.classify = nn.Linear(width, n_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of patch features (B, D, h, w), p = patch size."""
        tokens = features.patch.movedim(1, -1)  # (B, h, w, D)
        return to_pixels(self.classify(tokens).movedim(-1, 1), self.patch_size)


class ConvHead(nn.Module):
    """A light decoder: 3 x 3 convolutions, the grid doubled by learned upsampling until a token is a pixel.

    The learned upsampling can bring back what a token knows of the inside of its patch, which bilinear cannot.
    Norms are over channels only, so a pixel's logits do not depend on how large the tile around it is.
    """

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        stages = math.floor(math.log2(patch_size))
        channels = CONV_WIDTH
        layers: list[nn.Module] = [_conv(width, channels)]
        for _ in range(stages):
            narrower = max(channels // 2, CONV_WIDTH_MIN)
            layers += [nn.ConvTranspose2d(channels, narrower, kernel_size=2, stride=2), _conv(narrower, narrower)]
            channels = narrower
        self.decode = nn.Sequential(*layers)
        self.classify = nn.Conv2d(channels, n_classes, kernel_size=1)
        self.remaining = patch_size / 2**stages  # 1 unless the patch size is no power of two

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of patch features (B, D, h, w), p = patch size."""
        logits = self.classify(self.decode(features.patch))
        return to_pixels(logits, self.remaining)


HEADS: dict[str, type[LinearHead] | type[ConvHead]] = {"linear": LinearHead, "conv": ConvHead}


def to_pixels(maps: Tensor, factor: float) -> Tensor:
    """Bilinear upsampling of (B, K, h, w) by `factor`, pixel centres aligned."""
    if factor == 1:
        return maps
    size = (round(maps.shape[-2] * factor), round(maps.shape[-1] * factor))
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of (B, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def _conv(wide: int, narrow: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(wide, narrow, kernel_size=3, padding=1), _ChannelNorm(narrow), nn.GELU())


def seen_pixels(seen: Tensor, patch_size: int) -> Tensor:
    """(B, h, w) bool per token -> (B, h p, w p) bool per pixel."""
    return torch.repeat_interleave(torch.repeat_interleave(seen, patch_size, -2), patch_size, -1)
