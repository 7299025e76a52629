"""AnySat: one encoder for any of eleven sensors, any subset of them, any extent and patch size.

Astruc et al., "AnySat: One Earth Observation Model for Many Resolutions, Scales, and Modalities", CVPR 2025 (arXiv
2412.14123). Pixels -> sub-patch tokens (projectors) -> a token a patch and modality (spatial encoder) -> a token a
patch (combiner). What differs from the published code unless `parity` says otherwise is in docs/anysat.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from eokit.data.sample import Batch, Series
from eokit.errors import ArgumentError, UsageError
from eokit.models.anysat.blocks import (
    COMBINER_EPSILON,
    HEAD_WIDTH,
    SPATIAL_EPSILON,
    BiasHeads,
    Block,
    CrossBlock,
    Over,
)
from eokit.models.anysat.positions import buckets, grid_code
from eokit.models.anysat.projectors import ImageProjector, SeriesProjector
from eokit.models.anysat.sensors import CELL, SENSORS, AnySatSensor, sensor_of
from eokit.models.base import Encoder, Expected, Features, check_bands
from eokit.nn.patches import SEEN_SHARE
from eokit.nn.positions import day_of_year
from eokit.ops import gather_tokens

TOKENS = 4096
"""Tokens that go through the spatial encoder at once without gradients, so that they stay in the cache."""
EVERY_SENSOR = {name: len(sensor.bands) for name, sensor in SENSORS.items()}
PUBLISHED: dict[str, Any] = {"bias_heads": "first", "aerial_order": "nested"}
"""How the published weights were trained, whatever the input."""


@dataclass(frozen=True)
class AnySatConfig:
    """What builds an AnySat; the defaults are the paper's size.

    modalities: bands of each modality it can take; name and bands tell the sensor (`sensors.sensor_of`).
    patch_metres: edge of a patch, a multiple of 10, which `forward` can change. dense: the modality whose sub-patches
    `Features.dense` holds, None for none.
    bias_heads, aerial_order: "each" and "raster", or as the published weights know it: the first head's bias for all,
    and aerial sub-patches in the order of their 10 m cells. combiner: "heads" attends over the heads of a token, as the
    published code does on a GPU. season: dates are counted from this day, such as "2018-09-01"; None: from 1 January.
    parity: "official" computes what the published code does, padded dates and scrambled dense maps included.
    """

    modalities: Mapping[str, int] = field(default_factory=lambda: dict(EVERY_SENSOR))
    width: int = 768
    depth: int = 6
    patch_metres: int = 40
    dense: str | None = None
    bias_heads: BiasHeads = "each"
    aerial_order: Literal["raster", "nested"] = "raster"
    combiner: Over = "tokens"
    season: str | None = None
    parity: Literal["none", "official"] = "none"

    def __post_init__(self) -> None:
        if not self.modalities:
            raise UsageError("anysat: modalities is empty; give at least one, such as s2: 10")
        if self.width % HEAD_WIDTH:
            raise UsageError(f"anysat: width {self.width} must be a multiple of {HEAD_WIDTH}, the width of a head")
        allowed = {
            "bias_heads": ("each", "first"),
            "aerial_order": ("raster", "nested"),
            "combiner": ("tokens", "heads"),
            "parity": ("none", "official"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UsageError(f"anysat: {name} = {getattr(self, name)!r}; it is one of {', '.join(values)}")
        if self.dense is not None and self.dense not in self.modalities:
            raise UsageError(f"anysat: dense = {self.dense!r} is none of its modalities, {', '.join(self.modalities)}")
        if self.parity == "official":
            for name, value in PUBLISHED.items():
                object.__setattr__(self, name, value)


class Observed(NamedTuple):
    """What one sensor saw. values: (B, T, C, H, W), T = 1 for an image. dates: (B, T) days of the model's calendar.

    valid: (B, T, H, W) bool, None where everything is.
    """

    sensor: AnySatSensor
    values: Tensor
    dates: Tensor
    valid: Tensor | None = None


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


class AnySat(Encoder):
    """Projectors by sensor, a spatial encoder for all, a combiner."""

    family: ClassVar[str] = "anysat"
    choices: ClassVar[tuple[str, ...]] = ("patch_metres", "dense")

    def __init__(self, config: AnySatConfig) -> None:
        super().__init__()
        self.config, self.width, self.patch_size = config, config.width, config.patch_metres // CELL
        sensors = {sensor_of(name, bands).name for name, bands in config.modalities.items()}
        if config.patch_metres < CELL or config.patch_metres % CELL:
            raise UsageError(f"anysat: patch_metres = {config.patch_metres}; it is a multiple of {CELL}")
        self.projectors = nn.ModuleDict(
            {
                name: (ImageProjector if SENSORS[name].is_image else SeriesProjector)(SENSORS[name], config.width)
                for name in SENSORS
                if name in sensors
            }
        )
        self.spatial = SpatialEncoder(config.width, config.depth, config.bias_heads)
        self.combiner = Combiner(config.width, config.depth, config.bias_heads, config.combiner)

    @property
    def dense_width(self) -> int:
        """A patch's vector and a sub-patch's."""
        return 2 * self.width

    def patch_pixels(self, modality: str, bands: int) -> int:
        """Pixels of a modality along a patch of `patch_metres`."""
        sensor = sensor_of(modality, bands)
        return sensor.side(self.config.patch_metres) * max(sensor.patch, 1)

    def subpatch_pixels(self, modality: str, bands: int) -> int | None:
        """A pixel of a series, a cell of an image; none of a sensor with one token for the tile."""
        sensor = sensor_of(modality, bands)
        return None if sensor.whole_tile else max(sensor.patch, 1)

    def forward(self, batch: Batch, patch_metres: int | None = None, dense: str | None = None) -> Features:
        """Encode a batch; patch_metres and dense replace those of the configuration.

        `Features.dense` (B, 2 D, H, W) has a vector a sub-patch: its patch's features, then its own.
        """
        return self.encode(self.observe(batch), patch_metres or self.config.patch_metres, dense or self.config.dense)

    def encode(self, observed: Mapping[str, Observed], patch_metres: int, dense: str | None = None) -> Features:
        """Encode what the sensors saw; `dense`: the modality whose sub-patches are told."""
        tokens = self.tokens(observed, patch_metres, keep=(dense,) if dense else ())
        x = self.combiner(tokens, patch_metres / CELL)
        h, w = tokens.grid
        patch = x[:, 1:].unflatten(1, (h, w)).contiguous().permute(0, 3, 1, 2)
        seen = torch.ones((len(x), h, w), dtype=torch.bool, device=x.device)
        if tokens.seen is not None:
            by_patch = [one for one in tokens.seen.values() if one.shape[1] == h * w]  # not MODIS: one for the tile
            seen = torch.stack(by_patch).any(0).unflatten(1, (h, w))
        maps = None if dense is None else self.dense(patch, tokens.sub[dense], observed[dense].sensor)
        return Features(x[:, 0], patch, seen, maps)

    def sensor(self, modality: str, bands: int) -> AnySatSensor | None:
        """The sensor as which a modality of so many bands is read; None where there is no projector for one."""
        try:
            sensor = sensor_of(modality, bands)
        except UsageError:
            return None
        return sensor if sensor.name in self.projectors else None

    def takes(self, modality: str, bands: int) -> bool:
        """Whether there is a projector: s1-asc with three bands is `s1`, whatever `modalities` calls s1-asc."""
        return self.sensor(modality, bands) is not None

    def expected(self, modality: str, bands: int) -> Expected | None:
        """The bands and the resolution of the sensor, which the published weights know."""
        sensor = self.sensor(modality, bands)
        return None if sensor is None else Expected(sensor.bands, sensor.gsd)

    def observe(self, batch: Batch) -> dict[str, Observed]:
        """The series of a batch as their sensors; dates become those of the model's calendar."""
        if not batch.series:
            raise ArgumentError(f"the batch holds no series; this encoder takes {', '.join(self.config.modalities)}")
        return {name: self._observed(self._read_as(name, series), series) for name, series in batch.series.items()}

    def _read_as(self, name: str, series: Series) -> AnySatSensor:
        """The sensor of a series; an ArgumentError where there is none, or where an image has several dates."""
        known = self.config.modalities
        sensor = self.sensor(name, series.values.shape[2]) if series.values.ndim == 5 else None
        if sensor is None and name not in known:
            raise ArgumentError(f"the batch brings modality {name!r}, this encoder takes {', '.join(known)}")
        if sensor is None:
            check_bands(name, series, known[name])
        assert sensor is not None  # every modality has a projector, so `check_bands` has raised
        if sensor.is_image and series.values.shape[1] != 1:
            raise ArgumentError(f"{name} has {series.values.shape[1]} dates, expected one image")
        return sensor

    def _observed(self, sensor: AnySatSensor, series: Series) -> Observed:
        dates = calendar(series.days, self.config.season)
        valid: Tensor | None = series.valid
        if self.config.parity == "official":
            padding = (series.days == 0) & ~series.valid.flatten(2).any(-1)
            dates = dates.masked_fill(padding, 0)
            valid = series.valid | padding[..., None, None]
        return Observed(sensor, series.values, dates, None if valid is None or valid.all() else valid)

    def tokens(self, observed: Mapping[str, Observed], patch_metres: int, keep: tuple[str, ...] = ()) -> Tokens:
        """The tokens of patches of every modality, and the sub-patches of those in `keep`."""
        projected = {name: self.project(one, patch_metres) for name, one in observed.items()}
        grids = {name: one.grid for name, one in projected.items() if not one.whole}
        if len(set(grids.values())) > 1:
            shown = ", ".join(f"{name} {h} x {w}" for name, (h, w) in grids.items())
            raise ArgumentError(f"the modalities cover different ground, patches of {patch_metres} m: {shown}")
        if unknown := [name for name in keep if name not in projected]:
            raise ArgumentError(f"dense = {unknown[0]!r} is not in the batch, which holds {', '.join(projected)}")
        whole = tuple(name for name, one in projected.items() if one.whole)
        if coarse := [name for name in keep if name in whole]:
            raise ArgumentError(f"dense = {coarse[0]!r} has no sub-patches: one token stands for its whole tile")
        patch, sub = self.spatial(projected, keep)
        masks = {name: one.seen for name, one in projected.items()}
        seen = None
        if any(mask is not None for mask in masks.values()):
            seen = {
                name: x.new_ones(x.shape[:2], dtype=torch.bool) if (mask := masks[name]) is None else mask.any(-1)
                for name, x in patch.items()
            }
        return Tokens(patch, seen, sub, whole, next(iter(grids.values()), (1, 1)))

    def project(self, observed: Observed, patch_metres: int) -> Projected:
        """One modality's sub-patches, by patches; ArgumentError where its pixels do not divide into them."""
        sensor, side = observed.sensor, observed.sensor.side(patch_metres)
        edge = side * max(sensor.patch, 1)
        height, width = observed.values.shape[-2:]
        if height % edge or width % edge or not (height and width):
            raise ArgumentError(
                f"{sensor.name} of {height} x {width} pixels does not divide into patches of {edge} pixels"
                f" ({patch_metres} m at {sensor.gsd:g} m); crop it, or choose another patch size"
            )
        grid = (height // edge, width // edge)
        if sensor.whole_tile and grid != (1, 1):
            raise ArgumentError(f"{sensor.name} has {height} x {width} pixels, expected 1 x 1: a token for the tile")
        project = self._image if sensor.is_image else self._series
        x, seen = project(observed, grid, side)
        return Projected(x, seen, grid, sensor.subpatch, sensor.whole_tile)

    def _series(self, observed: Observed, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor | None]:
        """Pixels are the sub-patches: (B, P, S, D) and which were seen on any date, (B, P, S)."""
        projector, valid, values = self.projectors[observed.sensor.name], observed.valid, observed.values
        assert isinstance(projector, SeriesProjector)
        if valid is not None:
            seen_dates = self.config.parity == "official"
            stand_in = projector.missing.to(values.dtype) if seen_dates else 0.0
            values, valid = torch.where(valid[:, :, None], values, stand_in), None if seen_dates else valid
        pixels = by_patch(values.permute(0, 3, 4, 1, 2), grid, side).flatten(1, 2)  # (B, N, T, C), patch by patch
        mask = None if valid is None else by_patch(valid.permute(0, 2, 3, 1), grid, side).flatten(1, 2)
        x = projector(pixels, observed.dates, mask).unflatten(1, (-1, side**2))
        return x, None if mask is None else mask.any(-1).unflatten(1, (-1, side**2))

    def _image(self, observed: Observed, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor | None]:
        """Cells of pixels are the sub-patches: (B, P, S, D) and which were seen in at least half, (B, P, S)."""
        sensor, values, valid = observed.sensor, observed.values[:, 0], observed.valid
        if valid is not None:
            values = values.masked_fill(~valid, 0.0)
        cells = by_patch(self.projectors[sensor.name](values), grid, side)
        seen = None
        if valid is not None:
            share = nn.functional.avg_pool2d(valid.float(), sensor.patch)[:, 0, ..., None]
            seen = by_patch(share >= SEEN_SHARE, grid, side)[..., 0]
        order = self.order(sensor, side, values.device)
        return (cells, seen) if order is None else (cells[:, :, order], None if seen is None else seen[:, :, order])

    def order(self, sensor: AnySatSensor, side: int, device: torch.device) -> Tensor | None:
        """The row-by-row numbers of sub-patches in the order in which they take their places, None for the same."""
        inner = round(CELL / sensor.subpatch)
        if self.config.aerial_order == "raster" or inner <= 1 or side <= inner:
            return None
        numbers = torch.arange(side**2, device=device).view(side // inner, inner, side // inner, inner)
        return numbers.transpose(1, 2).flatten()

    def dense(self, patch: Tensor, sub: Tensor, sensor: AnySatSensor) -> Tensor:
        """patch: (B, D, h, w), sub: (B, P, S, D) -> (B, 2 D, h s, w s), a patch's vector before a sub-patch's."""
        side = round(sub.shape[2] ** 0.5)
        order = self.order(sensor, side, sub.device)
        if order is not None and self.config.parity != "official":
            sub = sub[:, :, order.argsort()]
        h, w = patch.shape[-2:]
        sub = sub.unflatten(2, (side, side)).unflatten(1, (h, w)).transpose(2, 3)  # (B, h, s, w, s, D)
        patch = patch.permute(0, 2, 3, 1)[:, :, None, :, None].expand(sub.shape)
        return torch.cat([patch, sub], -1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


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


def calendar(days: Tensor, season: str | None) -> Tensor:
    """Days since 1970-01-01 (B, T) -> days of the model: 1 to 366 in the year, or since the day `season` begins."""
    if season is None:
        return day_of_year(days) + 1
    import datetime

    return days - (datetime.date.fromisoformat(season) - datetime.date(1970, 1, 1)).days


def by_patch(maps: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(B, h s, w s, ...) -> (B, P, s s, ...), row by row in the tile and in the patch."""
    (h, w), rest = grid, maps.shape[3:]
    return maps.reshape(len(maps), h, side, w, side, *rest).transpose(2, 3).reshape(len(maps), h * w, side**2, *rest)
