"""The row MLP in plain torch: what every backend is held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import group_norm, linear


def norm_relu(z: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    """relu(group_norm(z)) of rows z (R, C), statistics of each group of each row in at least float32."""
    wide = torch.promote_types(z.dtype, torch.float32)
    return group_norm(z.to(wide), groups, weight.to(wide), bias.to(wide), epsilon).relu().to(z.dtype)


def row_mlp(x: Tensor, layers: Sequence[Sequence[Tensor]], groups: int, epsilon: float) -> Tensor:
    """X (R, C) through layers of (weight (C', C), bias, gain, shift (C')): relu(group_norm(x weight^T + bias))."""
    for weight, bias, gain, shift in layers:
        x = norm_relu(linear(x, weight.to(x.dtype), bias.to(x.dtype)), gain, shift, groups, epsilon)
    return x
