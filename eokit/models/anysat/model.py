"""AnySat: one encoder for any of eleven sensors, any subset of them, any extent and patch size.

Astruc et al., "AnySat: One Earth Observation Model for Many Resolutions, Scales, and Modalities", CVPR 2025 (arXiv
2412.14123). Pixels -> sub-patch tokens (projectors) -> a token a patch and modality (spatial encoder) -> a token a
patch (combiner). What differs from the published code unless `parity` says otherwise is in docs/anysat.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from eokit.data.sample import Batch, Series
from eokit.errors import ArgumentError, UsageError
from eokit.models.anysat.blocks import (
    HEAD_WIDTH,
    BiasHeads,
    Over,
)
from eokit.models.anysat.encoders import Combiner, Projected, SpatialEncoder, Tokens
from eokit.models.anysat.projectors import ImageProjector, SeriesProjector
from eokit.models.anysat.sensors import CELL, SENSORS, AnySatSensor, sensor_of
from eokit.models.base import Encoder, Expected, Features, TileOf, check_bands
from eokit.nn.patches import SEEN_SHARE
from eokit.nn.positions import day_of_year

EVERY_SENSOR = {name: len(sensor.bands) for name, sensor in SENSORS.items()}
PUBLISHED: dict[str, Any] = {"bias_heads": "first", "aerial_order": "nested"}
"""How the published weights were trained, whatever the input."""


@dataclass(frozen=True)
class AnySatConfig:
    """What builds an AnySat; the defaults are the paper's size.

    modalities: bands of each modality it can take; name and bands tell the sensor (`sensors.sensor_of`).
    patch_metres: edge of a patch, a multiple of 10, which `forward` can change. dense: the modality whose sub-patches
    `Features.dense` holds, None for none. tile_of: what `Features.tile` is.
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
    tile_of: TileOf = "token"
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
            "tile_of": get_args(TileOf),
            "bias_heads": ("each", "first"),
            "aerial_order": ("raster", "nested"),
            "combiner": ("tokens", "heads"),
            "parity": ("none", "official"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise UsageError(f"anysat: {name} = {getattr(self, name)!r}; it is one of {', '.join(values)}")
        if self.season is not None:
            _day(self.season)
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


class AnySat(Encoder):
    """Projectors by sensor, a spatial encoder for all, a combiner."""

    family: ClassVar[str] = "anysat"
    choices: ClassVar[tuple[str, ...]] = ("patch_metres", "dense", "tile_of")
    uses_parts: ClassVar[bool] = True

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

    def patch_pixels(self, modality: str, bands: int, patch_metres: int | None = None) -> int:
        """Pixels of a modality along a patch of `patch_metres`, or of the configured size."""
        sensor = sensor_of(modality, bands)
        return sensor.side(patch_metres or self.config.patch_metres) * max(sensor.patch, 1)

    def subpatch_pixels(self, modality: str, bands: int) -> int | None:
        """A pixel of a series, a cell of an image; none of a sensor with one token for the tile."""
        sensor = sensor_of(modality, bands)
        return None if sensor.whole_tile else max(sensor.patch, 1)

    def forward(
        self, batch: Batch, patch_metres: int | None = None, dense: str | None = None, tile_of: TileOf | None = None
    ) -> Features:
        """Encode a batch; patch_metres, dense and tile_of replace those of the configuration.

        `Features.dense` (B, 2 D, H, W) has a vector a sub-patch: its patch's features, then its own.
        """
        metres = patch_metres or self.config.patch_metres
        return self.encode(self.observe(batch), metres, dense or self.config.dense, tile_of)

    def encode(
        self,
        observed: Mapping[str, Observed],
        patch_metres: int,
        dense: str | None = None,
        tile_of: TileOf | None = None,
    ) -> Features:
        """Encode what the sensors saw. dense: whose sub-patches are told. tile_of: None as in the configuration."""
        tokens = self.tokens(observed, patch_metres, keep=(dense,) if dense else ())
        x = self.combiner(tokens, patch_metres / CELL)
        h, w = tokens.grid
        patch = x[:, 1:].unflatten(1, (h, w)).contiguous().permute(0, 3, 1, 2)
        seen = torch.ones((len(x), h, w), dtype=torch.bool, device=x.device)
        tile_of, whole_seen = tile_of or self.config.tile_of, None
        if tokens.seen is not None:
            names = [name for name in tokens.seen if name not in tokens.whole]  # MODIS beside others shows no patch
            seen = torch.stack([tokens.seen[name] for name in names or tokens.whole]).any(0).unflatten(1, (h, w))
            if tokens.whole and tile_of != "patches":
                whole_seen = torch.cat([tokens.seen[name] for name in tokens.whole], 1).any(1)
        maps = None if dense is None else self.dense(patch, tokens.sub[dense], observed[dense].sensor)
        return Features(_tile(tile_of, x, seen, tokens), patch, seen, maps, whole_seen)

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
        valid = series.valid
        if self.config.parity == "official":
            padding = (series.days == 0) & ~series.valid.flatten(2).any(-1)
            dates = dates.masked_fill(padding, 0)
            valid = series.valid | padding[..., None, None]
        everything = valid.numel() > 0 and bool(valid.all())  # a series of no dates shows nothing
        return Observed(sensor, series.values, dates, None if everything else valid)

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
        """Cells of pixels are the sub-patches: (B, P, S, D) and which were seen in at least half, (B, P, S).

        The published code has no masks of images: their zeros are attended to.
        """
        sensor, values, valid = observed.sensor, observed.values[:, 0], observed.valid
        if valid is not None:
            values, valid = values.masked_fill(~valid, 0.0), None if self.config.parity == "official" else valid
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


def _tile(of: TileOf, x: Tensor, seen: Tensor, tokens: Tokens) -> Tensor:
    """The vector of a sample (B, D). x: (B, 1 + P, D) of the combiner, seen: (B, h, w), tokens: what it combined."""
    if of == "token":
        return x[:, 0]
    rows, mask = (x[:, 1:], seen.flatten(1)) if of == "patches" else tokens.in_one()
    if mask is None:
        return rows.mean(1)
    return rows.where(mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def calendar(days: Tensor, season: str | None) -> Tensor:
    """Days since 1970-01-01 (B, T) -> days of the model: 1 to 366 in the year, or since the day `season` begins."""
    if season is None:
        return day_of_year(days) + 1
    return days - (_day(season) - datetime.date(1970, 1, 1)).days


def _day(season: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(season)
    except ValueError:
        raise UsageError(f"anysat: season = {season!r}; it is a day, such as 2018-09-01") from None


def by_patch(maps: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(B, h s, w s, ...) -> (B, P, s s, ...), row by row in the tile and in the patch."""
    (h, w), rest = grid, maps.shape[3:]
    return maps.reshape(len(maps), h, side, w, side, *rest).transpose(2, 3).reshape(len(maps), h * w, side**2, *rest)
