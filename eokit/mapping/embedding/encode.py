"""From samples to features of one level, with what of them was seen. Called by `eokit.mapping.embedding.run`.

tile: one vector a sample. patch: one a patch of the encoder. pixel: one a sub-patch of one modality, where the encoder
has such maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eokit.data.dataset import DatePolicy, SampleDataset
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.errors import UsageError
from eokit.models.base import Encoder, Features, TileOf
from eokit.nn.patches import SEEN_SHARE
from eokit.tasks.grid import check_tile_of
from eokit.tasks.inputs import Reading, batches

Level = Literal["tile", "patch", "pixel"]


class Encoded(NamedTuple):
    """values: (B, D) or (B, D, h, w) float32. seen: (B,) or (B, h, w) bool, False where values mean nothing."""

    values: np.ndarray
    seen: np.ndarray


@dataclass(frozen=True)
class FeatureReader:
    """Reads samples of a store and gives their features. dates: at most so many of each modality, None for all.

    modality: whose sub-patches are told at the level of pixels, None at others. choices: keyword arguments of the
    encoder.
    """

    store: Path
    encoder: Encoder
    preprocessing: Preprocessing
    level: Level
    reading: Reading
    modality: str | None
    choices: dict[str, Any]
    dates: int | None = None

    def encode(self, numbers: np.ndarray, what: str | None = None) -> Iterator[Encoded]:
        """The features of the samples `numbers`, batch by batch, with progress if `what` names the work."""
        dates = DatePolicy(self.dates) if self.dates else None
        dataset = SampleDataset(self.store, numbers, self.preprocessing, dates=dates)
        encoder = self.encoder.to(self.reading.device).eval()
        for batch in batches(dataset, self.reading, what):
            with torch.inference_mode():
                yield self._of_level(encoder(batch, **self.choices), batch)

    def _of_level(self, features: Features, batch: Batch) -> Encoded:
        if self.level == "tile":
            return _plain(features.tile, features.tile_seen)
        if self.level == "patch":
            return _plain(features.patch, features.seen)
        maps, seen = features.dense, features.seen
        assert maps is not None
        assert self.modality is not None
        height, width = maps.shape[-2:]
        by = [pixels // patches for pixels, patches in zip((height, width), seen.shape[-2:], strict=True)]
        seen = seen.repeat_interleave(by[0], 1).repeat_interleave(by[1], 2)
        valid = batch.series[self.modality].valid.any(1).float()[:, None]
        own = F.adaptive_avg_pool2d(valid, (height, width))[:, 0] >= SEEN_SHARE
        return _plain(maps, seen & own)


def choices_of(
    encoder: Encoder,
    level: Level,
    modalities: tuple[str, ...],
    modality: str | None,
    patch_metres: int | None,
    tile_of: TileOf | None = None,
) -> tuple[dict[str, Any], str | None]:
    """The keyword arguments of the encoder, and the modality whose pixels are told; UsageError for what it has not."""
    family, choices = encoder.family, dict[str, Any]()
    if patch_metres is not None:
        choices["patch_metres"] = patch_metres
    if tile_of is not None:
        if level != "tile":
            raise UsageError(f"--tile-of {tile_of}: only --level tile is one vector a sample, this is {level}")
        check_tile_of(encoder, tile_of)
        choices["tile_of"] = tile_of
    if level != "pixel":
        if modality is not None:
            raise UsageError(f"--modality {modality}: only --level pixel is of one modality, this is {level}")
        return choices, None
    if "dense" not in encoder.choices:
        raise UsageError(f"--level pixel: {family} has no features of pixels; choose patch or tile")
    modality = modality or modalities[0]
    if modality not in modalities:
        raise UsageError(f"--modality {modality}: not among those that are encoded, {', '.join(modalities)}")
    return choices | {"dense": modality}, modality


def _plain(values: Tensor, seen: Tensor) -> Encoded:
    return Encoded(values.float().cpu().numpy(), seen.cpu().numpy())
