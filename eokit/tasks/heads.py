"""Segmentation heads: from patch features to one logit per class and pixel. Both take any encoder's Features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.models.base import Features
from eokit.tasks.features import Tokens
from eokit.tasks.linear_probe import NEVER, fit

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
        logits = self.classify(features.patch.movedim(1, -1))  # (B, h, w, K)
        return to_pixels(logits.movedim(-1, 1), self.patch_size)

    @torch.no_grad()
    def start(self, train: Tokens, val: Tokens | None = None) -> None:
        """Begin as the linear probe of these tokens, which descent would need thousands of steps to find.

        Linear probing first also keeps fine-tuning from distorting the encoder (Kumar et al., ICLR 2022). A class
        without a token gets the lowest bias of the others, so that it can still be learned.
        """
        probe = fit(train, val, self.classify.out_features)
        there = probe.bias > NEVER
        self.classify.weight.copy_(probe.weight)
        self.classify.bias.copy_(torch.where(there, probe.bias, probe.bias[there].min()))


class ConvHead(nn.Module):
    """A light decoder on top of the linear head: 3 x 3 convolutions, the grid doubled by learned upsampling until a
    token is a pixel, and the sum of both logits.

    The learned upsampling can bring back what a token knows of the inside of its patch, which bilinear cannot; its
    last layer starts at zero, so that training begins with the linear head. Norms are over channels only, so a pixel's
    logits do not depend on how large the tile around it is.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.linear = LinearHead(width, patch_size, n_classes)
        self.register_buffer("center", torch.zeros(width, 1, 1))
        self.register_buffer("scale", torch.ones(width, 1, 1))
        stages = math.floor(math.log2(patch_size))
        channels = CONV_WIDTH
        layers: list[nn.Module] = [_conv(width, channels)]
        for _ in range(stages):
            narrower = max(channels // 2, CONV_WIDTH_MIN)
            layers += [nn.ConvTranspose2d(channels, narrower, kernel_size=2, stride=2), _conv(narrower, narrower)]
            channels = narrower
        self.decode = nn.Sequential(*layers)
        self.classify = nn.Conv2d(channels, n_classes, kernel_size=1)
        for one in self.classify.parameters():
            nn.init.zeros_(one)
        self.remaining = patch_size / 2**stages  # 1 unless the patch size is no power of two

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of patch features (B, D, h, w), p = patch size."""
        tokens = (features.patch - self.center) / self.scale
        return self.linear(features) + to_pixels(self.classify(self.decode(tokens)), self.remaining)

    @torch.no_grad()
    def start(self, train: Tokens, val: Tokens | None = None) -> None:
        """Begin as the linear probe of these tokens, and standardise what the convolutions see by them."""
        self.linear.start(train, val)
        self.center.copy_(train.features.mean(0)[:, None, None])
        self.scale.copy_(train.features.std(0).clamp_min(1e-6)[:, None, None])


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
