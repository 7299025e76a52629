"""Transformer blocks of AnySat: with a distance bias inside patches, plain between them, and the last, crossing one.

Tokens are (S, L, D): S sequences of L tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from eokit.models.anysat.positions import BUCKETS, bucket_choice
from eokit.nn.blocks import WEIGHT_STD, linear
from eokit.ops import attention

HEAD_WIDTH = 64
MLP_RATIO = 4
SPATIAL_EPSILON, COMBINER_EPSILON = 1e-5, 1e-6
"""LayerNorm's epsilon inside patches and between them, as published."""

BiasHeads = Literal["each", "first"]
Over = Literal["tokens", "heads"]


class DistanceBias(nn.Module):
    """Adds to a pair's score the product of the query with a learned vector of their distance (iRPE, Wu et al. 2021).

    `heads` "first": the first head's query makes the bias of all heads, as the published code does; "each": its own.
    """

    def __init__(self, heads: BiasHeads) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(HEAD_WIDTH, BUCKETS))
        self.heads = heads

    def forward(self, q: Tensor, index: Tensor) -> Tensor:
        """q: (S, Lq, H, d), index: (Lq, Lk) or (S, Lq, Lk) rows of the table -> (S, H or 1, Lq, Lk)."""
        q = q[:, :, :1] if self.heads == "first" else q
        scores = (q @ self.table.to(q.dtype)).transpose(1, 2)  # (S, H, Lq, BUCKETS)
        if index.dim() == 3:
            return scores.gather(-1, index[:, None].expand(-1, scores.shape[1], -1, -1))
        return torch.einsum("shqr,qrk->shqk", scores, bucket_choice(index).to(q.dtype))


class SelfAttention(nn.Module):
    """Multi-head attention with an optional distance bias. `over` "heads": see `Combiner`."""

    def __init__(self, width: int, bias: BiasHeads | None = None, over: Over = "tokens") -> None:
        super().__init__()
        self.qkv = linear(width, 3 * width)
        self.projection = linear(width, width)
        self.bias = None if bias is None else DistanceBias(bias)
        self.over = over

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, index: Tensor | None = None, queries: int | None = None
    ) -> Tensor:
        """x: (S, L, D), key_mask: (S, L) bool, index: (L, L) for the bias, queries: only the first so many rows."""
        if queries is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, -1, HEAD_WIDTH)).unbind(-3)  # (S, L, H, d)
        else:
            width = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = nn.functional.linear(x[:, :queries], weight[:width], bias[:width]).unflatten(-1, (-1, HEAD_WIDTH))
            k, v = nn.functional.linear(x, weight[width:], bias[width:]).unflatten(-1, (2, -1, HEAD_WIDTH)).unbind(-3)
        if self.over == "heads":
            out = attention(*(one.transpose(1, 2) for one in (q, k, v))).transpose(1, 2)
        else:
            added = None
            if self.bias is not None and index is not None:
                added = self.bias(q * HEAD_WIDTH**-0.5, index if queries is None else index[:queries])
            out = attention(q, k, v, key_mask=key_mask, bias=added)
        return self.projection(out.flatten(-2))


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x))."""

    def __init__(self, width: int, epsilon: float, bias: BiasHeads | None = None, over: Over = "tokens") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.attention = SelfAttention(width, bias, over)
        self.norm2 = nn.LayerNorm(width, epsilon)
        self.mlp = mlp(width)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, index: Tensor | None = None, queries: int | None = None
    ) -> Tensor:
        """x: (S, L, D) -> (S, L, D), or (S, queries, D): the first rows alone, of which nothing else is computed."""
        x = x[:, :queries] + self.attention(self.norm1(x), key_mask, index, queries)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Queries that know only their place read all tokens; there is no residual from the tokens."""

    def __init__(self, width: int, bias: BiasHeads) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, COMBINER_EPSILON)
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=WEIGHT_STD))
        self.keys = linear(width, width)
        self.values = linear(width, width)
        self.bias = DistanceBias(bias)
        self.projection = linear(width, width)
        self.norm2 = nn.LayerNorm(width, COMBINER_EPSILON)
        self.mlp = mlp(width)

    def forward(self, tokens: Tensor, places: Tensor, index: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """tokens: (B, Lk, D), places: (B or 1, Lq, D) codes, index: (Lq, Lk) or (B, Lq, Lk) -> (B, Lq, D)."""
        x = self.norm1(tokens)
        k, v = (layer(x).unflatten(-1, (-1, HEAD_WIDTH)) for layer in (self.keys, self.values))
        q = (self.query + places).to(k.dtype).unflatten(-1, (-1, HEAD_WIDTH))  # (B or 1, Lq, H, d)
        bias = self.bias(q, index)  # of the query as it is, not scaled
        x = self.projection(attention(q.expand(len(k), -1, -1, -1), k, v, key_mask=key_mask, bias=bias).flatten(-2))
        return x + self.mlp(self.norm2(x))


def mlp(width: int) -> nn.Sequential:
    """Two layers with a GELU between them, MLP_RATIO times as wide inside."""
    return nn.Sequential(linear(width, MLP_RATIO * width), nn.GELU(), linear(MLP_RATIO * width, width))
