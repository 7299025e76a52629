"""Segmentation heads: from patch features to one logit per class and pixel. Both take any encoder's Features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.models.base import Features

SHRINKAGE = 1e-3
"""Added to every variance, as a share of their mean: directions below it are rounding (bf16) rather than signal."""

CONV_WIDTH, CONV_WIDTH_MIN = 128, 32
"""Channels of the convolutional head on the token grid, halved at each doubling of the grid down to the least."""


class Whitening(nn.Module):
    """A fixed linear map after which token features are centred, of unit variance and uncorrelated.

    Variances of an encoder's features span many powers of ten (place and season carry most of it, the crop little);
    gradient descent would need thousands of steps to find the small ones. The identity until `fit`.
    """

    center: Tensor
    matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("matrix", torch.eye(width))

    @torch.no_grad()
    def fit(self, tokens: Tensor) -> None:
        """Take mean and covariance from feature vectors (n, D); any n, the shrinkage fills in what it leaves open."""
        tokens = tokens.detach().cpu().double()
        variances, axes = torch.linalg.eigh(torch.cov(tokens.T))
        variances = variances.clamp_min(0)
        scale = (variances + SHRINKAGE * variances.mean()).clamp_min(1e-12).rsqrt()
        self.center.copy_(tokens.mean(0))
        self.matrix.copy_((axes * scale) @ axes.T)  # symmetric: the signs of the axes do not matter

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w), in float32 also under autocast: small directions would drown in bf16."""
        with torch.autocast(maps.device.type, enabled=False):
            return torch.einsum("bdhw,de->behw", maps.float() - self.center[:, None, None], self.matrix)


class LinearHead(nn.Module):
    """One linear layer per patch token, its logits upsampled bilinearly to pixels."""

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.whitening = Whitening(width)
        self.classify = nn.Linear(width, n_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of patch features (B, D, h, w), p = patch size."""
        tokens = self.whitening(features.patch).movedim(1, -1)  # (B, h, w, D)
        return to_pixels(self.classify(tokens).movedim(-1, 1), self.patch_size)


class ConvHead(nn.Module):
    """A light decoder: 3 x 3 convolutions, the grid doubled by learned upsampling until a token is a pixel.

    The learned upsampling can bring back what a token knows of the inside of its patch, which bilinear cannot.
    Norms are over channels only, so a pixel's logits do not depend on how large the tile around it is.
    """

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.whitening = Whitening(width)
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
        logits = self.classify(self.decode(self.whitening(features.patch)))
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
