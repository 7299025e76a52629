"""The vocabulary that flows from a store to the kernels: Series, Sample, Batch.

Dates and masks never travel apart from their pixels. An image is a series of one date. Shape letters, used everywhere:
B batch, T dates, C bands, H W pixels, N tokens of one date, D channels of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eokit.errors import ArgumentError


@dataclass(frozen=True)
class Series:
    """One sensor's images of one place through time, or with a leading B of a batch of places.

    values: ([B,] T, C, H, W) float32, normalised, 0 where not valid.
    days: ([B,] T) int32, days since 1970-01-01; 0 on padding.
    valid: ([B,] T, H, W) bool, False on padding, nodata and masked clouds.
    """

    values: Tensor
    days: Tensor
    valid: Tensor
    sensor: str

    def __post_init__(self) -> None:
        *lead, _, height, width = self.values.shape
        if tuple(self.days.shape) != tuple(lead):
            raise ArgumentError(
                f"days has shape {tuple(self.days.shape)}, expected {tuple(lead)}:"
                f" one per date of values {tuple(self.values.shape)}"
            )
        if tuple(self.valid.shape) != (*lead, height, width):
            raise ArgumentError(f"valid has shape {tuple(self.valid.shape)}, expected {(*lead, height, width)}")

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Series:
        """The same series on `device`."""
        move = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("values", "days", "valid")}
        return replace(self, **move)


@dataclass(frozen=True)
class Where:
    """Where a sample lies. `transform`: the six affine numbers (a, b, c, d, e, f) of its 10 m (or finest) grid."""

    id: str
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    lon: float | None = None
    lat: float | None = None


@dataclass(frozen=True)
class Sample:
    """One place: its series by modality, and targets such as `semantic` (H, W) int64, `parcel` (H, W) int64."""

    series: dict[str, Series]
    where: Where
    targets: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Samples stacked: series padded in T per modality (`valid` False on padding), targets stacked to (B, ...)."""

    series: dict[str, Series]
    where: tuple[Where, ...]
    targets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.where)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on `device`."""
        series = {name: one.to(device, non_blocking) for name, one in self.series.items()}
        targets = {name: one.to(device, non_blocking=non_blocking) for name, one in self.targets.items()}
        return replace(self, series=series, targets=targets)

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory (the DataLoader calls this)."""
        series = {
            name: replace(one, values=one.values.pin_memory(), days=one.days.pin_memory(), valid=one.valid.pin_memory())
            for name, one in self.series.items()
        }
        return replace(self, series=series, targets={name: one.pin_memory() for name, one in self.targets.items()})
