"""Token features of an encoder with their labels, gathered batch by batch; probes and new heads learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

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
    """features: (n, D) float32 on the CPU. labels: (n,) int64, the majority class of each token."""

    features: Tensor
    labels: Tensor


def encode(
    encoder: Encoder, dataset: Any, labels: Labels, reading: Reading, what: str
) -> Iterator[tuple[Features, Tensor]]:
    """Features and labels (B, H, W) of every sample in order; no gradient, evaluation mode."""
    encoder = encoder.to(reading.device).eval()
    for batch in batches(dataset, reading, what):
        with torch.inference_mode():
            features = encoder(batch)
        truth = batch.targets[labels.name]
        covered = tuple(side * encoder.patch_size for side in features.seen.shape[-2:])
        if tuple(truth.shape[-2:]) != covered:
            shown, needed = (" x ".join(map(str, size)) for size in (truth.shape[-2:], covered))
            raise DataError(
                f"labels {labels.name!r} have {shown} pixels, features cover {needed}; bring them to one grid"
            )
        yield features, truth


def sample_tokens(
    encoded: Iterable[tuple[Features, Tensor]], patch_size: int, labels: Labels, *, share: int, seed: int = 0
) -> Tokens:
    """At most `share` seen and labelled tokens of each sample, drawn by `seed`.

    encoded: features and labels (B, H, W), batch by batch, such as from `encode`. Drawn without regard to class, so
    that the frequencies of the classes stay those of the data.
    """
    rows: list[Tensor] = []
    truth: list[Tensor] = []
    number = 0
    for features, pixels in encoded:
        classes = majority(pixels, patch_size, labels.n_classes, labels.ignore)
        usable = (features.seen & (classes >= 0)).cpu()
        for patch, keep, ids in zip(features.patch.float().cpu(), usable, classes.cpu(), strict=True):
            where = draw(keep.flatten().nonzero().flatten(), share, [seed, number])
            rows.append(patch.flatten(1).T[where].clone())
            truth.append(ids.flatten()[where])
            number += 1
    tokens = Tokens(torch.cat(rows), torch.cat(truth)) if rows else Tokens(torch.zeros(0, 1), torch.zeros(0))
    if not len(tokens.labels):
        raise DataError("no labelled token to learn from: every label of these folds is void or every date is cloud")
    return tokens


def draw(candidates: Tensor, count: int, seed: list[int]) -> Tensor:
    """At most `count` of `candidates` (n,), in their order; the same ones for the same seed."""
    import numpy as np

    if len(candidates) <= count:
        return candidates
    chosen = np.random.default_rng(seed).choice(len(candidates), count, replace=False)
    return candidates[torch.from_numpy(np.sort(chosen))]
