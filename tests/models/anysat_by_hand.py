"""AnySat of one sample written out in numpy, float64, patch by patch and pixel by pixel: no code of eokit's.

Weights come by their published names, so that `published(encoder)` feeds it. Places, orders and distances are counted
in loops, as the published training code counts them; what it is for are the sensors and masks of which no recorded
output of the published model exists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

PIXEL = {"aerial": 0.2, "aerial-flair": 0.2, "spot": 1.0, "naip": 1.25, "l7": 30.0, "alos": 30.0, "modis": 250.0}
"""Metres of a pixel; 10 for what is not named."""
CELL = {"aerial": 10, "aerial-flair": 10, "spot": 10, "naip": 8}
"""Pixels along a sub-patch of an image; series are not named."""
NESTED = {"aerial": 5, "aerial-flair": 5}
"""Sub-patches along a cell of 10 m, where there are several."""


class Seen(NamedTuple):
    """A modality of one sample. values: (T, C, H, W), of an image T = 1; dates: (T,); mask: (T, H, W), True = seen."""

    values: Array
    dates: Array
    mask: Array | None = None


class Told(NamedTuple):
    """tile: (D,), patch: (h, w, D), sub: name -> (h, w, S, D), of the modalities that have sub-patches."""

    tile: Array
    patch: Array
    sub: dict[str, Array]


def subpatches(name: str, metres: int) -> int:
    """How many sub-patches lie along a patch."""
    return 1 if name == "modis" else round(metres / (PIXEL.get(name, 10.0) * CELL.get(name, 1)))


def order(name: str, metres: int, nested: bool) -> list[tuple[int, int]]:
    """(row, column) of the sub-patches of a patch as the encoder is given them."""
    side = subpatches(name, metres)
    inner = NESTED.get(name, 1) if nested else 1
    return [
        (cell_row * inner + row, cell_column * inner + column)
        for cell_row in range(side // inner)
        for cell_column in range(side // inner)
        for row in range(inner)
        for column in range(inner)
    ]


def place(row: int, column: int, step: float, width: int) -> Array:
    """The code of a place: sines and cosines of its column, then of its row, both in units of `step`."""
    numbers = []
    for where in (column * step, row * step):
        angles = [where * 10_000 ** (-k / (width // 4)) for k in range(width // 4)]
        numbers += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return np.array(numbers)


@cache
def bucket(one: tuple[int, int] | None, other: tuple[int, int] | None) -> int:
    """Row of the bias table for two places (row, column), None for a token that has none."""
    if one is None or other is None:
        return 7
    distance = round(math.dist(one, other))
    if distance <= 1.9:
        return 3 + distance
    more = math.log(distance / 1.9) / math.log(15.2 / 1.9) * (3.8 - 1.9)
    return 3 + int(min(round(1.9 + more), 3.8))


def encode(
    weights: Mapping[str, Array], observed: Mapping[str, Seen], metres: int, *, first: bool = True, nested: bool = True
) -> Told:
    """All of one sample. `first`: the bias is that of the first head's query; `nested`: aerial sub-patches by cells."""
    tokens, places, sub, grid = [], [], {}, (1, 1)
    for name in sorted(observed, key=lambda name: name != "modis"):  # its token stands before all others
        x = project(weights, name, observed[name], metres, nested)  # (h, w, S, D)
        rows = np.stack([[spatial(weights, patch, subpatch(name), first) for patch in line] for line in x])
        if name == "modis":
            tokens.append(rows[0, 0, 0])
            places.append(None)
            continue
        grid, sub[name] = rows.shape[:2], rows[:, :, 1:]
        for row in range(grid[0]):
            for column in range(grid[1]):
                tokens.append(rows[row, column, 0] + place(row, column, metres / 10, rows.shape[-1]))
                places.append((row, column))
    x = np.stack([weights["cls_token"].reshape(-1), *tokens])
    depth = sum(key.endswith("attn.qkv.weight") and key.startswith("blocks.") for key in weights)
    for number in range(depth):
        x = block(weights, f"blocks.{number}", x, None, 1e-6, first)
    asked = [None, *((row, column) for row in range(grid[0]) for column in range(grid[1]))]
    x = cross(weights, f"blocks.{depth}", x, asked, [None, *places], metres / 10, first)
    return Told(x[0], x[1:].reshape(*grid, -1), sub)


def subpatch(name: str) -> float:
    """Metres along a sub-patch."""
    return PIXEL.get(name, 10.0) * CELL.get(name, 1)


def project(weights: Mapping[str, Array], name: str, seen: Seen, metres: int, nested: bool) -> Array:
    """(h, w, S, D): the sub-patches of every patch."""
    side, edge = subpatches(name, metres), CELL.get(name, 1)
    h, w = (size // (side * edge) for size in seen.values.shape[-2:])
    lines = []
    for row in range(h):
        for column in range(w):
            for down, right in order(name, metres, nested):
                y, x = (row * side + down) * edge, (column * side + right) * edge
                if name in CELL:
                    lines.append(image_cell(weights, name, seen.values[0, :, y : y + edge, x : x + edge]))
                else:
                    mask = None if seen.mask is None else seen.mask[:, y, x]
                    lines.append(series_pixel(weights, name, seen.values[:, :, y, x], seen.dates, mask))
    return np.stack(lines).reshape(h, w, side**2, -1)


def image_cell(weights: Mapping[str, Array], name: str, pixels: Array) -> Array:
    """(C, p, p) -> (D,)."""
    part = f"projector_{name}"
    x = (weights[f"{part}.patch_embed.weight"] * pixels).sum((1, 2, 3))
    for linear, norm in ((0, 1), (3, 4)):
        x = layer_norm(weights, f"{part}.mlp.{norm}", affine(weights, f"{part}.mlp.{linear}", x), 1e-5).clip(0)
    return x


def series_pixel(weights: Mapping[str, Array], name: str, values: Array, dates: Array, mask: Array | None) -> Array:
    """(T, C), dates (T,), mask (T,) -> (D,). What is masked counts as the learned number; its date counts."""
    part = f"projector_{name}"
    x = values if mask is None else np.where(mask[:, None], values, weights[f"{part}.pad_parameter"])
    for number in (0, 4, 8, 12, 16):
        x = affine(weights, f"{part}.patch_embed.inconv.{number}", x)
        x = group_norm(weights, f"{part}.patch_embed.inconv.{number + 1}", x, 4).clip(0)
    if name == "s2":
        x = over_dates(weights, f"{part}.patch_embed.in_norm", x)
    slices, period = x.shape[1] // 16, 366 if name == "l8" else 367
    for t, date in enumerate(dates):
        for channel in range(x.shape[1]):
            i = channel % slices
            angle = date / period ** (2 * (i // 2) / slices)
            x[t, channel] += math.cos(angle) if i % 2 else math.sin(angle)
    keys = affine(weights, f"{part}.patch_embed.attention_heads.fc1_k", x)
    pooled = []
    for head, query in enumerate(weights[f"{part}.patch_embed.attention_heads.Q"]):
        share = softmax(keys[:, 8 * head : 8 * head + 8] @ query / math.sqrt(8))
        pooled.append(share @ x[:, slices * head : slices * (head + 1)])
    x = affine(weights, f"{part}.patch_embed.mlp.0", np.concatenate(pooled)[None])
    x = group_norm(weights, f"{part}.patch_embed.mlp.1", x, 4).clip(0)
    return group_norm(weights, f"{part}.patch_embed.out_norm", x, 16)[0]


def spatial(weights: Mapping[str, Array], tokens: Array, metres: float, first: bool) -> Array:
    """Sub-patches of a patch (S, D) -> its token and theirs (1 + S, D). Places are row by row, whatever the order."""
    side, part = math.isqrt(len(tokens)), "spatial_encoder"
    places = [(row, column) for row in range(side) for column in range(side)]
    rows = [token + place(*where, metres, len(token)) for token, where in zip(tokens, places, strict=True)]
    x = np.stack([weights[f"{part}.cls_token"].reshape(-1), *rows])
    for number in range(sum(key.endswith("attn.qkv.weight") and key.startswith(part) for key in weights)):
        x = block(weights, f"{part}.predictor_blocks.{number}", x, [None, *places], 1e-5, first)
    return layer_norm(weights, f"{part}.predictor_norm", x, 1e-5)


def block(weights: Mapping[str, Array], part: str, x: Array, places: list | None, epsilon: float, first: bool) -> Array:
    """A block on (L, D); with places there is a bias, of the query that is scaled."""
    qkv = affine(weights, f"{part}.attn.qkv", layer_norm(weights, f"{part}.norm1", x, epsilon))
    q, k, v = np.split(qkv, 3, axis=1)
    out = heads(weights, part, q / 8, k, v, None if places is None else (q / 8, places, places), first)
    return feed(weights, part, x + affine(weights, f"{part}.attn.proj", out), epsilon)


def cross(
    weights: Mapping[str, Array], part: str, x: Array, asked: list, places: list, step: float, first: bool
) -> Array:
    """The last block: queries know their place alone, the bias is of the query that is not scaled."""
    x = layer_norm(weights, f"{part}.norm1", x, 1e-6)
    none = np.zeros(x.shape[1])
    codes = [none if where is None else place(*where, step, x.shape[1]) for where in asked]
    q = weights[f"{part}.attn.q_learned"].reshape(-1) + np.stack(codes)
    k, v = affine(weights, f"{part}.attn.wk", x), affine(weights, f"{part}.attn.wv", x)
    out = heads(weights, part, q / 8, k, v, (q, asked, places), first)
    return feed(weights, part, affine(weights, f"{part}.attn.proj", out), 1e-6)


def heads(
    weights: Mapping[str, Array], part: str, q: Array, k: Array, v: Array, bias: tuple | None, first: bool
) -> Array:
    """Attention of heads of 64. bias: the query that makes it, the places of the queries and those of the keys."""
    out = []
    for head in range(q.shape[1] // 64):
        own = slice(64 * head, 64 * head + 64)
        scores = q[:, own] @ k[:, own].T
        if bias is not None:
            whose, asked, places = bias
            table = weights[f"{part}.attn.rpe_k.lookup_table_weight"].reshape(64, 8)
            rows = (whose[:, :64] if first else whose[:, own]) @ table  # (Lq, 8)
            for i, one in enumerate(asked):
                scores[i] += [rows[i, bucket(one, other)] for other in places]
        out.append(np.stack([softmax(row) for row in scores]) @ v[:, own])
    return np.concatenate(out, 1)


def feed(weights: Mapping[str, Array], part: str, x: Array, epsilon: float) -> Array:
    inner = affine(weights, f"{part}.mlp.fc1", layer_norm(weights, f"{part}.norm2", x, epsilon))
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return x + affine(weights, f"{part}.mlp.fc2", inner)


def affine(weights: Mapping[str, Array], part: str, x: Array) -> Array:
    return x @ weights[f"{part}.weight"].T + weights[f"{part}.bias"]


def layer_norm(weights: Mapping[str, Array], part: str, x: Array, epsilon: float) -> Array:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * weights[f"{part}.weight"] + weights[f"{part}.bias"]


def group_norm(weights: Mapping[str, Array], part: str, x: Array, groups: int) -> Array:
    """Over groups of the features of a row; x: (T, C)."""
    parts = np.split(x, groups, axis=1)
    x = np.concatenate([(y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5) for y in parts], 1)
    return x * weights[f"{part}.weight"] + weights[f"{part}.bias"]


def over_dates(weights: Mapping[str, Array], part: str, x: Array) -> Array:
    """Over 16 groups of features and all dates of a pixel; x: (T, C)."""
    x = np.concatenate([(y - y.mean()) / np.sqrt(y.var() + 1e-5) for y in np.split(x, 16, axis=1)], 1)
    return x * weights[f"{part}.weight"] + weights[f"{part}.bias"]


def softmax(scores: Array) -> Array:
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()
