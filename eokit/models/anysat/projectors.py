"""From pixels to sub-patch tokens: a small MLP on cells of an image, L-TAE on the series of a pixel.

The series projector is most of AnySat's work (four fifths of its inference), so it stands on the fused ops: layers on
blocks of rows (`ops.row_mlp`), and the pooling of dates with the key projection folded into the learned queries
(`ops.temporal_pool`), so that neither keys nor date codes exist per pixel.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.models.anysat.positions import date_code
from eokit.models.anysat.sensors import AnySatSensor
from eokit.ops import row_mlp, temporal_pool

HEADS, KEY_WIDTH = 16, 8
"""Heads of L-TAE and the width of its keys; a head's values are its slice of the features themselves."""
GROUPS = 4
"""Of the group norm after each linear layer."""
ROWS = 4096
"""Pixel-dates that are projected at once without gradients, so that their features stay in the cache."""


class ImageProjector(nn.Module):
    """Cells of pixels -> linear -> two layers with layer norm and ReLU."""

    def __init__(self, sensor: AnySatSensor, width: int) -> None:
        super().__init__()
        self.cells = nn.Conv2d(len(sensor.bands), width, sensor.patch, sensor.patch, bias=False)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        )

    def forward(self, values: Tensor) -> Tensor:
        """values: (B, C, H, W) -> (B, H / p, W / p, D), one token a cell of p x p pixels."""
        return self.layers(self.cells(values).permute(0, 2, 3, 1))


class RowLayer(nn.Module):
    """The parameters of linear, group norm and ReLU, which `ops.row_mlp` applies."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.GroupNorm(GROUPS, outputs)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(weight, bias, gain, shift)."""
        return self.linear.weight, self.linear.bias, self.norm.weight, self.norm.bias


class SeriesProjector(nn.Module):
    """Every date through five layers, then one learned query a head pools the dates of a pixel."""

    def __init__(self, sensor: AnySatSensor, width: int) -> None:
        super().__init__()
        self.period = sensor.period
        sizes = (len(sensor.bands), width // 8, width // 2, width, 2 * width, width)
        self.layers = nn.ModuleList(RowLayer(a, b) for a, b in pairwise(sizes))
        self.series_norm = nn.GroupNorm(HEADS, width) if sensor.series_norm else None
        self.queries = nn.Parameter(torch.randn(HEADS, KEY_WIDTH) * (2 / KEY_WIDTH) ** 0.5)
        self.keys = nn.Linear(width, HEADS * KEY_WIDTH)
        self.output = RowLayer(width, width)
        self.output_norm = nn.GroupNorm(HEADS, width)
        self.missing = nn.Parameter(torch.zeros(()))  # stands for values that a data set marks as missing
        for unused in (self.keys.bias, self.missing):  # the bias cancels in the softmax; missing dates are left out
            unused.requires_grad_(False)

    def forward(self, values: Tensor, dates: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """values: (B, N, T, C) of N pixels, dates: (B, T) in days, key_mask: (B, N, T) bool, True = a date that counts.

        Returns (B, N, D). Without gradients a few pixels go through everything at a time.
        """
        if torch.is_autocast_enabled(values.device.type):
            values = values.to(torch.get_autocast_dtype(values.device.type))
        positions = date_code(dates, self.keys.in_features // HEADS, self.period)  # (B, T, D / heads)
        rows_of_pixel = max(1, values.shape[0] * values.shape[2])  # there may be no dates
        step = values.shape[1] if torch.is_grad_enabled() else max(1, ROWS // rows_of_pixel)
        pooled = [
            self._pool(values[:, start : start + step], positions, _part(key_mask, start, step))
            for start in range(0, values.shape[1], step)
        ]
        rows = (pooled[0] if len(pooled) == 1 else torch.cat(pooled, 1)).flatten(0, 1)
        rows = row_mlp(rows, [self.output.parts], groups=GROUPS)
        norm = self.output_norm
        rows = F.group_norm(rows, HEADS, norm.weight.to(rows.dtype), norm.bias.to(rows.dtype))
        return rows.unflatten(0, values.shape[:2])

    def _pool(self, values: Tensor, positions: Tensor, key_mask: Tensor | None) -> Tensor:
        """The features of some pixels, pooled over their dates: (B, N, D)."""
        rows = row_mlp(values.flatten(0, 2), self._rows(), groups=GROUPS)
        features = rows.unflatten(0, values.shape[:3])
        if self.series_norm is not None:
            features = norm_series(features, self.series_norm, key_mask)
        return temporal_pool(features, self._folded(), positions, key_mask=key_mask)

    def _rows(self) -> list[tuple[Tensor, ...]]:
        return [cast(RowLayer, layer).parts for layer in self.layers]

    def _folded(self) -> Tensor:
        """The learned queries (H, d) through the transposed key projection: (H, D); its bias cancels in the softmax."""
        keys = self.keys.weight.unflatten(0, (HEADS, KEY_WIDTH))  # (H, d, D)
        return torch.einsum("hk,hkd->hd", self.queries, keys) / KEY_WIDTH**0.5


def norm_series(x: Tensor, norm: nn.GroupNorm, key_mask: Tensor | None) -> Tensor:
    """Group norm whose statistics are over a group's channels and all counting dates of a pixel.

    x: (B, N, T, D), key_mask: (B, N, T) bool or None -> (B, N, T, D); pixels without any date give finite numbers.
    """
    groups = x.float().unflatten(-1, (norm.num_groups, -1))  # (B, N, T, G, D / G)
    counts = x.new_ones(1, dtype=torch.float32) if key_mask is None else key_mask[..., None, None].float()
    size = groups.shape[-1] * (x.shape[2] if key_mask is None else counts.sum(2, keepdim=True).clamp_min(1))
    mean = (groups * counts if key_mask is not None else groups).sum((2, 4), keepdim=True) / size
    groups = groups - mean
    squares = groups.square() if key_mask is None else groups.square() * counts
    scale = (squares.sum((2, 4), keepdim=True) / size + norm.eps).rsqrt()
    gain, shift = (one.float().unflatten(0, (norm.num_groups, -1)) for one in (norm.weight, norm.bias))
    return torch.addcmul(shift, groups, scale * gain).flatten(-2).to(x.dtype)


def _part(key_mask: Tensor | None, start: int, step: int) -> Tensor | None:
    return None if key_mask is None else key_mask[:, start : start + step]
