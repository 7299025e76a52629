"""Pre-norm transformer blocks over tokens (B, T, N, D) that attend along space, along time, or along both.

Attention is `eokit.ops.attention` on strided views of one qkv projection: attending along time is the same call with
other strides, nothing is permuted or copied.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from eokit.errors import ArgumentError
from eokit.ops import attention

EPSILON = 1e-6
"""LayerNorm's epsilon in ViT-S of DINO, MAE and I-JEPA."""
WEIGHT_STD = 0.02
"""Standard deviation of new linear weights, truncated normal (ViT, DINO, I-JEPA)."""

PIECE = 4096
"""Tokens that go through a block at once in inference on a CPU: what a layer makes of them (at width 384, 25 MB in the
widest) stays in the cache and in memory that is already mapped. Of 2,048 to 8,192 tried, 4,096 and 2,048 were fastest.
"""

Along = Literal["space", "time", "both"]
Order = Literal["st", "ts"]


def linear(inputs: int, outputs: int, std: float = WEIGHT_STD) -> nn.Linear:
    """A linear layer with truncated-normal weights of `std` and no offset to begin with."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention along one axis of the token grid."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ArgumentError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.projection = linear(width, width)

    def forward(self, x: Tensor, key_mask: Tensor, along: Along) -> Tensor:
        """x: (B, T, N, D), key_mask: (B, T, N) bool, True = attend to it -> (B, T, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each (B, T, N, H, D / H)
        if along == "space":
            out = attention(q, k, v, key_mask=key_mask)
        elif along == "time":
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))  # (B, N, T, H, D / H)
            out = attention(q, k, v, key_mask=key_mask.transpose(1, 2)).transpose(1, 2)
        else:
            q, k, v = (one.flatten(1, 2) for one in (q, k, v))  # (B, T * N, H, D / H), still views
            out = attention(q, k, v, key_mask=key_mask.flatten(1, 2))
        return self.projection(out.reshape(x.shape))


class DropPath(nn.Module):
    """In training, leaves out a whole residual branch of a sample with probability `rate` (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """branch: (B, ...) -> (B, ...), kept samples scaled by 1 / (1 - rate)."""
        if not self.training or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = torch.rand(shape, device=branch.device) >= self.rate
        return branch * (kept / (1 - self.rate)).to(branch.dtype)


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.Sequential(linear(width, hidden), nn.GELU(), linear(hidden, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, key_mask: Tensor, along: Along) -> Tensor:
        """x: (B, T, N, D), key_mask: (B, T, N) bool -> (B, T, N, D)."""
        x = x + self.drop_path(self.attention(self.norm1(x), key_mask, along))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class AlternatingBlocks(nn.Module):
    """`depth` blocks that take turns along space and time (or attend along both at once), and a last LayerNorm."""

    def __init__(
        self, width: int, depth: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0, order: str = "st"
    ) -> None:
        """order: "st" space first, "ts" time first, "joint" all tokens of all dates in every block.

        drop_path: rate of the last block; it grows linearly from 0 at the first.
        """
        super().__init__()
        turns: dict[str, tuple[Along, Along]] = {
            "st": ("space", "time"),
            "ts": ("time", "space"),
            "joint": ("both", "both"),
        }
        if order not in turns:
            raise ArgumentError(f"order {order!r} is unknown; it is one of {', '.join(turns)}")
        self.along = [turns[order][layer % 2] for layer in range(depth)]
        rates = [drop_path * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor, key_mask: Tensor) -> Tensor:
        """x: (B, T, N, D), key_mask: (B, T, N) bool, False = nobody attends to it -> (B, T, N, D)."""
        in_pieces = x.device.type == "cpu" and not torch.is_grad_enabled() and not self.training
        if in_pieces:
            x = x.clone()  # the pieces are overwritten in place
        for block, along in zip(self.blocks, self.along, strict=True):
            x = run_in_pieces(block, x, key_mask, along) if in_pieces else block(x, key_mask, along)
        return self.norm(x)


def run_in_pieces(block: nn.Module, x: Tensor, key_mask: Tensor, along: Along) -> Tensor:
    """The block on a few sequences at a time, writing over `x`: the same result without its large intermediates.

    Sequences along space are independent between dates, those along time between places, and samples always.
    x: (B, T, N, D), overwritten; key_mask: (B, T, N). Returns x.
    """
    axis = {"space": 1, "time": 2, "both": 0}[along]
    together = x[..., 0].numel() // max(x.shape[axis], 1)  # tokens of one step along the axis
    step = max(1, PIECE // max(together, 1))
    for part, mask in zip(x.split(step, axis), key_mask.split(step, axis), strict=True):
        part.copy_(block(part, mask, along))
    return x
