"""AnySat's forward in plain torch, step by step as the published code computes it: what `AnySat.encode` is held to.

Same weights, nothing fused: a code of the date for every pixel, keys of every pixel-date, whole score matrices, every
modality through the spatial encoder alone, all tokens through all blocks. Called by the tests, and by `eokit bench`
as the contender that does the published work. Everything is taken as seen: no masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from eokit.models.anysat.blocks import HEAD_WIDTH, Block, CrossBlock, DistanceBias, SelfAttention
from eokit.models.anysat.model import AnySat, Observed, by_patch
from eokit.models.anysat.positions import buckets, date_code, grid_code
from eokit.models.anysat.projectors import GROUPS, HEADS, KEY_WIDTH, RowLayer, SeriesProjector
from eokit.models.anysat.sensors import CELL
from eokit.models.base import Features


def encode(encoder: AnySat, observed: Mapping[str, Observed], patch_metres: int, dense: str | None = None) -> Features:
    """As `AnySat.encode` on series and images that are wholly valid."""
    patch, sub, whole, grid = {}, None, [], (1, 1)
    for name, one in observed.items():
        x, here = project(encoder, one, patch_metres)  # (B, P, S, D)
        tokens = spatial(encoder, x, one.sensor.subpatch)
        patch[name] = tokens[:, :, 0]
        if name == dense:
            sub = tokens[:, :, 1:]
        if one.sensor.whole_tile:
            whole.append(name)
        else:
            grid = here
    x = combine(encoder, patch, whole, grid, patch_metres / CELL)
    h, w = grid
    maps = x[:, 1:].transpose(1, 2).unflatten(2, (h, w))
    seen = torch.ones(len(x), h, w, dtype=torch.bool, device=x.device)
    sensor = None if dense is None else observed[dense].sensor
    full = None if sub is None or sensor is None else encoder.dense(maps, sub, sensor)
    return Features(x[:, 0], maps, seen, full)


def project(encoder: AnySat, observed: Observed, patch_metres: int) -> tuple[Tensor, tuple[int, int]]:
    """Sub-patches (B, P, S, D) and the grid (h, w) of patches."""
    sensor, side = observed.sensor, observed.sensor.side(patch_metres)
    edge = side * max(sensor.patch, 1)
    grid = (observed.values.shape[-2] // edge, observed.values.shape[-1] // edge)
    if sensor.is_image:
        cells = by_patch(encoder.projectors[sensor.name](observed.values[:, 0]), grid, side)
        order = encoder.order(sensor, side, cells.device)
        return (cells if order is None else cells[:, :, order]), grid
    batch, dates, bands, height, width = observed.values.shape
    pixels = observed.values.permute(0, 3, 4, 1, 2).reshape(batch * height * width, dates, bands)
    days = observed.dates.repeat_interleave(height * width, 0)  # a date of every pixel
    maps = pool(cast(SeriesProjector, encoder.projectors[sensor.name]), pixels, days)
    return by_patch(maps.view(batch, height, width, -1), grid, side), grid


def pool(projector: SeriesProjector, pixels: Tensor, days: Tensor) -> Tensor:
    """L-TAE of pixels (N, T, C) with days (N, T): (N, D)."""
    x = pixels
    for layer in projector.layers:
        x = row_layer(cast(RowLayer, layer), x)  # (N, T, C')
    if projector.series_norm is not None:
        x = projector.series_norm(x.transpose(1, 2)).transpose(1, 2)
    x = x + date_code(days, x.shape[-1] // HEADS, projector.period).repeat(1, 1, HEADS)
    keys = projector.keys(x).unflatten(-1, (HEADS, KEY_WIDTH))  # (N, T, H, d)
    scores = torch.einsum("hk,nthk->nht", projector.queries, keys) / KEY_WIDTH**0.5
    values = x.unflatten(-1, (HEADS, -1))  # (N, T, H, D / H)
    x = torch.einsum("nht,nthv->nhv", scores.softmax(-1), values).flatten(1)
    return projector.output_norm(row_layer(projector.output, x))


def row_layer(layer: RowLayer, x: Tensor) -> Tensor:
    """Linear, group norm over the features of each row, ReLU."""
    rows = layer.linear(x).flatten(0, -2)
    return F.group_norm(rows, GROUPS, layer.norm.weight, layer.norm.bias).relu().view(*x.shape[:-1], -1)


def spatial(encoder: AnySat, x: Tensor, metres: float) -> Tensor:
    """Sub-patches (B, P, S, D) -> the patch's token and theirs (B, P, 1 + S, D)."""
    side = round(x.shape[2] ** 0.5)
    rows = (x + grid_code((side, side), metres, x.shape[-1], x.device)).flatten(0, 1)
    rows = torch.cat([encoder.spatial.token.expand(len(rows), 1, -1), rows], 1)
    index = buckets((side, side), 1, x.device)
    for block in encoder.spatial.blocks:
        rows = run_block(cast(Block, block), rows, index)
    return encoder.spatial.norm(rows).unflatten(0, x.shape[:2])


def combine(
    encoder: AnySat, patch: Mapping[str, Tensor], whole: list[str], grid: tuple[int, int], step: float
) -> Tensor:
    """Patches by modality -> the tile's token and the patches' (B, 1 + P, D)."""
    combiner, names = encoder.combiner, [name for name in patch if name not in whole]
    batch, _, width = next(iter(patch.values())).shape
    places = grid_code(grid, step, width, combiner.token.device)
    x = torch.cat([combiner.token.expand(batch, 1, -1), *(patch[name] for name in whole)], 1)
    x = torch.cat([x, *(patch[name] + places for name in names)], 1)
    for block in combiner.blocks:
        x = run_block(cast(Block, block), x, None)
    placeless = 1 + len(whole)
    square = buckets(grid, placeless, x.device)
    rows = torch.cat([square[:1], square[placeless:]])
    index = torch.cat([rows[:, :placeless], *[rows[:, placeless:]] * len(names)], 1)
    return cross(combiner.cross, x, torch.cat([places.new_zeros(1, width), places])[None], index)


def run_block(block: Block, x: Tensor, index: Tensor | None) -> Tensor:
    """A pre-norm block on (S, L, D)."""
    x = x + self_attention(block.attention, block.norm1(x), index)
    return x + block.mlp(block.norm2(x))


def self_attention(layer: SelfAttention, x: Tensor, index: Tensor | None) -> Tensor:
    """Attention with whole score matrices; index: (L, L) rows of the bias table, None for no bias."""
    q, k, v = layer.qkv(x).unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # (S, H, L, d)
    if layer.over == "heads":
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    q = q * HEAD_WIDTH**-0.5
    scores = q @ k.transpose(-2, -1)
    if layer.bias is not None and index is not None:
        scores = scores + distance_bias(layer.bias, q, index)
    out = scores.softmax(-1) @ v
    out = out if layer.over == "heads" else out.transpose(1, 2)
    return layer.projection(out.flatten(-2))


def cross(block: CrossBlock, tokens: Tensor, places: Tensor, index: Tensor) -> Tensor:
    """The crossing block: queries of `places` (1, Lq, D) read `tokens` (B, Lk, D)."""
    x = block.norm1(tokens)
    k, v = (layer(x).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for layer in (block.keys, block.values))
    q = (block.query + places).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2).expand(len(k), -1, -1, -1)
    scores = (q * HEAD_WIDTH**-0.5) @ k.transpose(-2, -1) + distance_bias(block.bias, q, index)
    x = block.projection((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))
    return x + block.mlp(block.norm2(x))


def distance_bias(bias: DistanceBias, q: Tensor, index: Tensor) -> Tensor:
    """q: (S, H, Lq, d), index: (Lq, Lk) -> (S, H or 1, Lq, Lk), gathered from the product of query and table."""
    scores = (q[:, :1] if bias.heads == "first" else q) @ bias.table
    return scores.gather(-1, index.expand(*scores.shape[:2], -1, -1))
