"""Features of an encoder with their labels, gathered batch by batch; probes and new heads learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from eokit.errors import DataError
from eokit.models.base import Encoder, Features
from eokit.tasks.inputs import Reading, batches, majority

MAX_TOKENS = 50_000
"""Labelled tokens (or pixels) a probe learns from: a logistic regression on them takes seconds, not hours."""


@dataclass(frozen=True)
class Labels:
    """A label layer: its name in the store, the number of classes and the void id."""

    name: str
    n_classes: int
    ignore: int | None


@dataclass(frozen=True)
class Tokens:
    """features: (n, D) float32 on the CPU, of tokens or of whole samples.

    labels: (n,) int64, the (majority) class of each, or (n, K) of 0 and 1 where each has several.
    """

    features: Tensor
    labels: Tensor


def encode(
    encoder: Encoder, dataset: Any, labels: Labels, reading: Reading, what: str
) -> Iterator[tuple[Features, Tensor]]:
    """Features and labels, (B, H, W) or of whole samples, of every sample in order; no gradient, evaluation mode."""
    encoder = encoder.to(reading.device).eval()
    for batch in batches(dataset, reading, what):
        with torch.inference_mode():
            features = encoder(batch)
        yield features, batch.targets[labels.name]


def sample_tokens(
    encoded: Iterable[tuple[Features, Tensor]],
    labels: Labels,
    *,
    share: int,
    seed: int = 0,
    of: Literal["patch", "dense"] = "patch",
) -> Tokens:
    """At most `share` seen and labelled tokens, of patches or of sub-patches, of each sample, drawn by `seed`.

    encoded: features and labels (B, H, W), batch by batch, such as from `encode`. Drawn without regard to class, so
    that the frequencies of the classes stay those of the data.
    """
    rows: list[Tensor] = []
    truth: list[Tensor] = []
    number = 0
    for features, pixels in encoded:
        maps = token_maps(features, of)
        classes = majority(pixels, token_pixels(pixels, maps), labels.n_classes, labels.ignore)
        usable = (token_seen(features, maps) & (classes >= 0)).cpu()
        for patch, keep, ids in zip(maps.float().cpu(), usable, classes.cpu(), strict=True):
            where = draw(keep.flatten().nonzero().flatten(), share, [seed, number])
            rows.append(patch.flatten(1).T[where].clone())
            truth.append(ids.flatten()[where])
            number += 1
    tokens = Tokens(torch.cat(rows), torch.cat(truth)) if rows else Tokens(torch.zeros(0, 1), torch.zeros(0))
    if not len(tokens.labels):
        raise DataError("no labelled token to learn from: every label of these folds is void or every date is cloud")
    return tokens


def gather_tiles(encoded: Iterable[tuple[Features, Tensor]], labels: Labels) -> Tokens:
    """The vector of each sample that some date showed and that has its labels.

    encoded: features and labels (B,) or (B, K), batch by batch.
    """
    rows: list[Tensor] = []
    truth: list[Tensor] = []
    for features, given in encoded:
        usable = features.seen.flatten(1).any(1) & labelled(given, labels.ignore).reshape(len(given), -1).all(1)
        rows.append(features.tile[usable].float().cpu())
        truth.append(given[usable].long().cpu())
    if not sum(map(len, truth)):
        raise DataError("no labelled sample to learn from: every label of these folds is void or every date is cloud")
    return Tokens(torch.cat(rows), torch.cat(truth))


def labelled(labels: Tensor, ignore: int | None) -> Tensor:
    """Where labels are not void; bool of their shape."""
    return torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore


def token_maps(features: Features, of: Literal["patch", "dense"]) -> Tensor:
    """(B, D, h, w), a vector a patch, or a sub-patch where the encoder tells of them."""
    maps = features.patch if of == "patch" else features.dense
    assert maps is not None, "the encoder was built without `dense`"
    return maps


def token_pixels(pixels: Tensor, maps: Tensor) -> int:
    """Label pixels (B, H, W) along a token of maps (B, D, h, w); a DataError where they do not divide."""
    side, rest = divmod(pixels.shape[-2], maps.shape[-2])
    if rest or side * maps.shape[-1] != pixels.shape[-1]:
        height, width = pixels.shape[-2:]
        tokens = " x ".join(map(str, maps.shape[-2:]))
        raise DataError(f"labels of {height} x {width} pixels do not divide into {tokens} tokens")
    return side


def token_seen(features: Features, maps: Tensor) -> Tensor:
    """(B, h, w) bool, where a token of `maps` lies in a patch that was seen."""
    return seen_pixels(features.seen, maps.shape[-1] // features.seen.shape[-1])


def seen_pixels(seen: Tensor, patch_size: int) -> Tensor:
    """(B, h, w) bool per token -> (B, h p, w p) bool per pixel."""
    return torch.repeat_interleave(torch.repeat_interleave(seen, patch_size, -2), patch_size, -1)


def draw(candidates: Tensor, count: int, seed: list[int]) -> Tensor:
    """At most `count` of `candidates` (n,), in their order; the same ones for the same seed."""
    import numpy as np

    if len(candidates) <= count:
        return candidates
    chosen = np.random.default_rng(seed).choice(len(candidates), count, replace=False)
    return candidates[torch.from_numpy(np.sort(chosen))]
