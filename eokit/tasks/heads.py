"""Heads: from any encoder's Features to one logit per class, of every pixel or of the whole sample."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

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

    reads: ClassVar[Literal["patch", "dense"]] = "patch"

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.classify = nn.Linear(width, n_classes)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of patch features (B, D, h, w), p = patch size."""
        logits = self.classify(features.patch.movedim(1, -1))  # (B, h, w, K)
        return to_pixels(logits.movedim(-1, 1), self.patch_size)

    def start(self, train: Tokens, val: Tokens | None = None) -> None:
        """Begin as the linear probe of these tokens."""
        start_linear(self.classify, train, val)


class NormedLinear(nn.Module):
    """LayerNorm, then one linear layer, of vectors (..., D); begins as the linear probe of normalised vectors."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, n_classes)

    def logits(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return self.classify(self.norm(vectors))

    @torch.no_grad()
    def start(self, train: Tokens, val: Tokens | None = None) -> None:
        """Begin as the linear probe of these vectors."""
        self.norm.reset_parameters()

        def normed(tokens: Tokens) -> Tokens:
            return Tokens(self.norm(tokens.features.to(self.norm.weight.device)).cpu(), tokens.labels)

        start_linear(self.classify, normed(train), None if val is None else normed(val))


class DenseHead(NormedLinear):
    """LayerNorm and a linear layer per sub-patch, logits upsampled bilinearly where a sub-patch has several pixels."""

    reads: ClassVar[Literal["patch", "dense"]] = "dense"

    def __init__(self, width: int, patch_size: int, n_classes: int) -> None:
        super().__init__(width, n_classes)
        self.patch_size = patch_size

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, h p, w p) of dense features (B, D', G, G), h x w patches of p pixels."""
        assert features.dense is not None, "the encoder was built without `dense`"
        logits = self.logits(features.dense.movedim(1, -1)).movedim(-1, 1)
        return to_pixels(logits, features.seen.shape[-1] * self.patch_size / logits.shape[-1])


class TileHead(NormedLinear):
    """LayerNorm and a linear layer on the one vector of a sample."""

    reads: ClassVar[Literal["tile"]] = "tile"

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K) of tile features (B, D)."""
        return self.logits(features.tile)


class ConvHead(nn.Module):
    """A light decoder on top of the linear head: 3 x 3 convolutions, the grid doubled by learned upsampling until a
    token is a pixel, and the sum of both logits.

    The learned upsampling can bring back what a token knows of the inside of its patch, which bilinear cannot; its
    last layer starts at zero, so that training begins with the linear head. Norms are over channels only, so a pixel's
    logits do not depend on how large the tile around it is.
    """

    reads: ClassVar[Literal["patch", "dense"]] = "patch"
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


HEADS: dict[str, type[LinearHead] | type[ConvHead] | type[DenseHead]] = {
    "linear": LinearHead,
    "conv": ConvHead,
    "dense": DenseHead,
}
"""Heads of maps."""


@torch.no_grad()
def start_linear(layer: nn.Linear, train: Tokens, val: Tokens | None) -> None:
    """Make `layer` the linear probe of these vectors, which descent would need thousands of steps to find.

    Linear probing first also keeps fine-tuning from distorting the encoder (Kumar et al., ICLR 2022). A class that
    does not occur gets the lowest bias of the others, so that it can still be learned.
    """
    probe = fit(train, val, layer.out_features)
    there = probe.bias > NEVER
    layer.weight.copy_(probe.weight)
    layer.bias.copy_(torch.where(there, probe.bias, probe.bias[there].min()))


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
