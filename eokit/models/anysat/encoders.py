"""The two transformers of AnySat: inside a patch, shared by all modalities, and between patches of all modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eokit.models.anysat.blocks import COMBINER_EPSILON, SPATIAL_EPSILON, BiasHeads, Block, CrossBlock, Over
from eokit.models.anysat.positions import buckets, grid_code
from eokit.ops import gather_tokens

TOKENS = 4096
"""Tokens that go through the spatial encoder at once without gradients, so that they stay in the cache."""


class Projected(NamedTuple):
    """Sub-patches of one modality. x: (B, P, S, D), row by row in each patch; seen: (B, P, S) bool or None for all.

    grid: (h, w) patches of the tile, h * w = P. metres: edge of a sub-patch. `whole`: one token for the tile, P = 1.
    """

    x: Tensor
    seen: Tensor | None
    grid: tuple[int, int]
    metres: float
    whole: bool


class Tokens(NamedTuple):
    """Tokens of patches by modality, before the combiner.

    patch: name -> (B, P, D). seen: name -> (B, P) bool, or None where every patch of every modality is. sub: name ->
    (B, P, S, D) where it was asked for. whole: names whose one token stands for the whole tile. grid: (h, w).
    """

    patch: dict[str, Tensor]
    seen: dict[str, Tensor] | None
    sub: dict[str, Tensor]
    whole: tuple[str, ...]
    grid: tuple[int, int]

    def in_one(self) -> tuple[Tensor, Tensor | None]:
        """All tokens, whole tiles first, then modality by modality: (B, L, D), and (B, L) bool or None for all seen."""
        names = (*self.whole, *(name for name in self.patch if name not in self.whole))
        seen = None if self.seen is None else torch.cat([self.seen[name] for name in names], 1)
        return torch.cat([self.patch[name] for name in names], 1), seen


class Kept(NamedTuple):
    """What of the tokens the combiner is given, for masked pretraining.

    keys: (B, n) numbers in `Tokens.in_one`, none twice; key_mask: (B, n) bool. queries: (B, K) numbers of patches.
    """

    keys: Tensor
    key_mask: Tensor
    queries: Tensor


class SpatialEncoder(nn.Module):
    """A patch's sub-patches attend to each other; the token put before them becomes the patch's."""

    def __init__(self, width: int, depth: int, bias: BiasHeads) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, SPATIAL_EPSILON, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, SPATIAL_EPSILON)

    def forward(
        self, projected: Mapping[str, Projected], keep: tuple[str, ...] = ()
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tokens of patches (B, P, D) by name, and sub-patches (B, P, S, D) of the names in `keep`.

        Modalities with equally many sub-patches go through together.
        """
        groups: dict[tuple[int, bool], list[str]] = {}
        for name, one in projected.items():
            groups.setdefault((one.x.shape[2], name in keep), []).append(name)
        patch, sub = {}, {}
        for (_, kept), names in groups.items():
            for name, x in zip(names, self._encode([projected[name] for name in names], kept), strict=True):
                patch[name] = x[:, :, 0]
                if kept:
                    sub[name] = x[:, :, 1:]
        return {name: patch[name] for name in projected}, sub

    def _encode(self, parts: list[Projected], keep: bool) -> list[Tensor]:
        """(B, P, 1 + S, D) of each part, or (B, P, 1, D) where only the patch's token is asked for."""
        side = round(parts[0].x.shape[2] ** 0.5)
        rows = [(one.x + self._code(side, one)).flatten(0, 1) for one in parts]
        masks = [one.seen for one in parts]
        mask = None
        if any(seen is not None for seen in masks):
            seen = [
                row.new_ones(row.shape[:2], dtype=torch.bool) if one is None else one.flatten(0, 1)
                for row, one in zip(rows, masks, strict=True)
            ]
            mask = nn.functional.pad(torch.cat(seen), (1, 0), value=True)
        x = rows[0] if len(rows) == 1 else torch.cat(rows)
        out = self._through(x, mask, buckets((side, side), 1, x.device), keep)
        sizes = [one.x.shape[:2] for one in parts]
        return [part.unflatten(0, size) for part, size in zip(out.split([b * p for b, p in sizes]), sizes, strict=True)]

    def _code(self, side: int, one: Projected) -> Tensor:
        return grid_code((side, side), one.metres, one.x.shape[-1], one.x.device).to(one.x.dtype)

    def _through(self, x: Tensor, mask: Tensor | None, index: Tensor, keep: bool) -> Tensor:
        """All blocks; a few sequences at a time without gradients. x: (R, S, D) -> (R, 1 + S or 1, D)."""
        step = len(x) if torch.is_grad_enabled() else max(1, TOKENS // (x.shape[1] + 1))
        out = []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            part = torch.cat([self.token.to(part.dtype).expand(len(part), 1, -1), part], 1)
            seen = None if mask is None else mask[start : start + step]
            for block in self.blocks[:-1]:
                part = block(part, seen, index)
            out.append(self.norm(self.blocks[-1](part, seen, index, None if keep else 1)))
        return out[0] if len(out) == 1 else torch.cat(out)


class Combiner(nn.Module):
    """Tokens of all patches of all modalities attend to each other; a query a patch reads them out.

    `over` "heads" is what the published code computes where flash attention is on: it hands over (B, H, N, d) where
    (B, N, H, d) is expected, so that the heads of a token attend to each other and tokens stay apart.
    """

    def __init__(self, width: int, depth: int, bias: BiasHeads, over: Over) -> None:
        super().__init__()
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.blocks = nn.ModuleList(Block(width, COMBINER_EPSILON, over=over) for _ in range(depth))
        self.cross = CrossBlock(width, bias)

    def forward(self, tokens: Tokens, step: float, kept: Kept | None = None) -> Tensor:
        """`step`: patches are so many units of the place code apart (10 m). Returns (B, 1 + P, D), the tile's first.

        With `kept` only its keys are attended to, and only its queries are told: (B, 1 + K, D).
        """
        names = [name for name in tokens.patch if name not in tokens.whole]
        x, mask = tokens.in_one()
        batch, width, device = len(x), x.shape[-1], x.device
        places = grid_code(tokens.grid, step, width, device)
        pos = torch.cat([places.new_zeros(len(tokens.whole), width), *[places] * len(names)])
        queries = places[None]
        if kept is None:
            x = x + pos.to(x.dtype)
        else:
            x = gather_tokens(x, kept.keys, pos)
            mask = kept.key_mask if mask is None else kept.key_mask & mask.gather(1, kept.keys)
            queries = places[kept.queries]
        x = torch.cat([self.token.to(x.dtype).expand(batch, 1, -1), x], 1)
        if mask is not None:
            mask = nn.functional.pad(mask, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, mask)
        index = self._index(tokens, len(names), device)
        if kept is not None:
            index = _pairs(index, kept)
        return self.cross(x, nn.functional.pad(queries, (0, 0, 1, 0)), index, mask)

    @staticmethod
    def _index(tokens: Tokens, modalities: int, device: torch.device) -> Tensor:
        """Rows of the bias table for queries (the tile's, patches) and keys (the tile's, whole tiles, modalities)."""
        placeless = 1 + len(tokens.whole)
        square = buckets(tokens.grid, placeless, device)
        rows = torch.cat([square[:1], square[placeless:]])
        return torch.cat([rows[:, :placeless], *[rows[:, placeless:]] * modalities], 1)


def _pairs(index: Tensor, kept: Kept) -> Tensor:
    """The rows of the bias table of kept queries and keys, the tile's before both: (B, 1 + K, 1 + n)."""
    queries = nn.functional.pad(kept.queries + 1, (1, 0))  # (B, 1 + K)
    keys = nn.functional.pad(kept.keys + 1, (1, 0))
    return index[queries[:, :, None], keys[:, None, :]]
