"""CropSTS: a small ViT over satellite image time series whose blocks attend along space and time in turns.

After Yan, Gu, Chen, "CropSTS", Remote Sensing 2025, 17(14), 2481. The paper's code is not public; the layout follows
its parameter count (22.42 M: 12 ViT-S blocks, ten Sentinel-2 bands, patch 16, a table of 366 days). Joint attention
over T dates of N tokens costs (T N)^2 pairs, alternating attention T N^2 + N T^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.errors import ArgumentError, UsageError
from eokit.models.base import Encoder, Features, check_bands, config_from
from eokit.models.info import ModelInfo, SensorRow
from eokit.nn.blocks import WEIGHT_STD, AlternatingBlocks, Order
from eokit.nn.patches import PatchEmbedding, patch_grid, seen_patches
from eokit.nn.positions import SpaceTimePositions


@dataclass(frozen=True)
class CropSTSConfig:
    """What builds a CropSTS. The defaults are the paper's; `PRESETS` names three sizes.

    modalities: bands of each modality the encoder can take. order: "st" attends along space first, "ts" along time
    first (better for crops in TSViT's ablation). attention: "joint" lets all tokens of all dates see each other, for
    comparison. drop_path: rate of the last block.
    """

    modalities: Mapping[str, int] = field(default_factory=lambda: {"s2": 10})
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    patch_size: int = 16
    drop_path: float = 0.1
    order: Order = "st"
    attention: Literal["decoupled", "joint"] = "decoupled"

    def __post_init__(self) -> None:
        if not self.modalities:
            raise UsageError("cropsts: modalities is empty; give at least one, such as s2: 10")
        if self.width % self.heads or self.width % 4:
            raise UsageError(f"cropsts: width {self.width} must be a multiple of 4 and of heads = {self.heads}")
        for name, allowed in (("order", ("st", "ts")), ("attention", ("decoupled", "joint"))):
            if getattr(self, name) not in allowed:
                raise UsageError(f"cropsts: {name} = {getattr(self, name)!r}; it is one of {', '.join(allowed)}")


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "parcel": {"patch_size": 4},  # 40 m on Sentinel-2: patch 16 is 160 m, wider than most fields
    "tiny": {"width": 128, "depth": 4, "heads": 4, "patch_size": 4, "drop_path": 0.0},  # for a CPU
}
INFO = ModelInfo(
    name="cropsts",
    title="CropSTS",
    summary="a small ViT over image time series; blocks attend along space and along time in turns",
    sensors=(
        SensorRow("s2", "Sentinel-2; any modalities and bands, by encoder.modalities", "(T, 10, H, W)", (), None),
    ),
    presets={"paper": 22_418_304, "parcel": 21_496_704, "tiny": 860_800},
    code_licence="this implementation Apache-2.0; the paper's code is not public",
    weights_licence="none are published",
    citation="Yan, Gu, Chen, CropSTS, Remote Sensing 2025, 17(14), 2481",
    weights="none are published; `eokit pretrain` makes them",
    parity="none: there is neither code nor weights to compare with; layout and parameter count follow the paper",
)


def build(config: Mapping[str, Any]) -> CropSTS:
    """A freshly initialised CropSTS; unknown keys are a UsageError."""
    return CropSTS(config_from(CropSTSConfig, config, "cropsts"))


class Tokens(NamedTuple):
    """Tokens of all dates of all modalities, one after the other along T.

    x: (B, T, N, D). days: (B, T) days since 1970-01-01. key_mask: (B, T, N) bool, True where the patch was seen on
    that date. grid: (h, w), h * w = N.
    """

    x: Tensor
    days: Tensor
    key_mask: Tensor
    grid: tuple[int, int]


class CropSTS(Encoder):
    """Patches of every date -> tokens with place and day -> alternating blocks -> mean over the dates that saw them."""

    family: ClassVar[str] = "cropsts"

    def __init__(self, config: CropSTSConfig) -> None:
        super().__init__()
        self.config, self.width, self.patch_size = config, config.width, config.patch_size
        self.patches = nn.ModuleDict(
            {name: PatchEmbedding(bands, config.patch_size, config.width) for name, bands in config.modalities.items()}
        )
        self.modality = nn.ParameterDict()
        if len(config.modalities) > 1:  # one modality needs no name, and the paper's count has none
            vectors = nn.init.trunc_normal_(torch.empty(len(config.modalities), config.width), std=WEIGHT_STD)
            self.modality.update(
                {name: nn.Parameter(one) for name, one in zip(config.modalities, vectors, strict=True)}
            )
        self.positions = SpaceTimePositions(config.width)
        self.trunk = AlternatingBlocks(
            config.width,
            config.depth,
            config.heads,
            mlp_ratio=config.mlp_ratio,
            drop_path=config.drop_path,
            order="joint" if config.attention == "joint" else config.order,
        )

    def forward(self, batch: Batch) -> Features:
        """Features of whole series: `patch` is the mean over the dates that saw it, `tile` over the seen patches."""
        return pool(self.tokens(batch))

    def tokens(self, batch: Batch, masked: Tensor | None = None, mask_token: Tensor | None = None) -> Tokens:
        """Encoded tokens, after the last LayerNorm.

        masked: (B, h, w) bool or None; the pixels of these patches are hidden on every date of every modality, and
        `mask_token` (D,) stands in their place (positions, day and modality are still told).
        """
        embedded = self.embed(batch, masked, mask_token)
        return embedded._replace(x=self.trunk(embedded.x, embedded.key_mask))

    def embed(self, batch: Batch, masked: Tensor | None = None, mask_token: Tensor | None = None) -> Tokens:
        """Tokens as they enter the first block; arguments as in `tokens`."""
        grid = self._check(batch)
        parts, days, key_masks = [], [], []
        for name, series in batch.series.items():
            x = self.patches[name](series.values, series.valid)
            if masked is not None and mask_token is not None:
                x = torch.where(masked.flatten(1)[:, None, :, None], mask_token.to(x.dtype), x)
            x = self.positions(x, series.days, grid)
            parts.append(x + self.modality[name] if name in self.modality else x)
            days.append(series.days)
            key_masks.append(seen_patches(series.valid, self.patch_size))
        if len(parts) == 1:
            return Tokens(parts[0], days[0], key_masks[0], grid)
        return Tokens(torch.cat(parts, 1), torch.cat(days, 1), torch.cat(key_masks, 1), grid)

    def flops(self, batch: int, dates: int, height: int, width: int) -> int:
        """Floating-point operations of one forward over `dates` dates (of all modalities together) of S2-like input.

        Counts matrix products only (a multiply and an add each): projections, MLPs and attention.
        """
        h, w = patch_grid(height, width, self.patch_size)
        tokens, depth, channels = dates * h * w, self.config.depth, self.width
        bands = next(iter(self.config.modalities.values()))
        embedding = 2 * tokens * bands * self.patch_size**2 * channels
        linears = depth * 2 * tokens * channels**2 * (4 + 2 * self.config.mlp_ratio)
        keys = {"space": h * w, "time": dates, "both": tokens}
        pairs = tokens * sum(keys[along] for along in self.trunk.along)
        return int(batch * (embedding + linears + 4 * pairs * channels))

    def _check(self, batch: Batch) -> tuple[int, int]:
        """The token grid that all series of the batch share; an ArgumentError says what does not fit."""
        known = self.config.modalities
        if not batch.series:
            raise ArgumentError(f"the batch holds no series; this encoder takes {', '.join(known)}")
        grids = {}
        for name, series in batch.series.items():
            if name not in known:
                raise ArgumentError(f"the batch brings modality {name!r}, this encoder takes {', '.join(known)}")
            check_bands(name, series, known[name])
            height, width = series.values.shape[-2:]
            grids[name] = patch_grid(height, width, self.patch_size)
        if len(set(grids.values())) > 1:
            shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in grids.items())
            raise ArgumentError(f"the series lie on different grids of patches ({shown}); bring them to one resolution")
        return next(iter(grids.values()))


def pool(tokens: Tokens) -> Features:
    """Means over the dates that saw a patch, and over the seen patches; 0 where nothing was seen."""
    x, seen = tokens.x, tokens.key_mask.to(tokens.x.dtype)
    dates = seen.sum(1)  # (B, N)
    patch = (x * seen[..., None]).sum(1) / dates.clamp_min(1)[..., None]
    seen_patch = dates > 0
    tile = patch.sum(1) / seen_patch.sum(1, keepdim=True).clamp_min(1)  # unseen patches are 0
    h, w = tokens.grid
    return Features(tile, patch.unflatten(1, (h, w)).permute(0, 3, 1, 2), seen_patch.unflatten(1, (h, w)))
