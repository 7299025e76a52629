"""What every encoder offers, so that tasks, probes and maps need to know no family.

An encoder turns a Batch into Features and is batch-invariant: what a sample is padded with or batched with changes
nothing (tests/models/contract.py holds every registered encoder to it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from eokit.data.sample import Batch, Series
from eokit.errors import ArgumentError, UsageError

ConfigT = TypeVar("ConfigT")

TileOf = Literal["token", "patches", "modalities"]
"""What the vector of a sample is, for families that have the choice: the token that the encoder learns for it, the mean
of its patches, or that of the modalities' patches before they are combined; the means are of what was seen."""


@dataclass(frozen=True)
class Features:
    """What an encoder says of a batch; maps are (B, D, h, w), channels-last in memory.

    tile: (B, D), one vector a sample. patch: (B, D, h, w), one vector a patch of `patch_size` pixels, pooled over the
    valid dates. dense: (B, D', H, W), one vector a sub-patch of one modality (`config.dense`), or None.
    seen: (B, h, w) bool, False where no date of any modality showed the patch (its features are then meaningless).
    whole_seen: (B,) bool, where a modality with one pixel for the whole tile, which makes no patch seen, is in `tile`.
    """

    tile: Tensor
    patch: Tensor
    seen: Tensor
    dense: Tensor | None = None
    whole_seen: Tensor | None = None

    @property
    def tile_seen(self) -> Tensor:
        """(B,) bool, False where no modality showed anything of the sample (`tile` is then meaningless)."""
        seen = self.seen.flatten(1).any(1)
        return seen if self.whole_seen is None else seen | self.whole_seen


class Expected(NamedTuple):
    """What weights know of a modality whatever the data: its bands in their order, and the metres of a pixel."""

    bands: tuple[str, ...]
    gsd: float


class Encoder(nn.Module):
    """Base of all families: `forward(batch)` gives Features; `config` rebuilds the encoder from plain values.

    choices: keyword arguments of `forward` beside the batch, for families that can be asked for other features.
    uses_parts: whether a batch, or what is asked for, can leave parameters without a gradient.
    """

    family: ClassVar[str]
    choices: ClassVar[tuple[str, ...]] = ()
    uses_parts: ClassVar[bool] = False
    config: Any
    width: int
    patch_size: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities the encoder can take, e.g. ("s2", "s1-asc"); a batch may bring any non-empty subset."""
        return tuple(self.config.modalities)

    def takes(self, modality: str, bands: int) -> bool:
        """Whether a batch may bring `modality` with so many bands."""
        return self.config.modalities.get(modality) == bands

    def expected(self, modality: str, bands: int) -> Expected | None:
        """What the weights expect of a modality that is taken; None where the data that trained them said it."""
        return None

    @property
    def dense_width(self) -> int:
        """Numbers of a vector of `Features.dense`."""
        return self.width

    def patch_pixels(self, modality: str, bands: int, patch_metres: int | None = None) -> int:
        """Pixels of a modality along a patch, of `patch_metres` where the family has that choice, else its own."""
        return self.patch_size

    def subpatch_pixels(self, modality: str, bands: int) -> int | None:
        """Pixels of a modality along a sub-patch, of which `Features.dense` tells; None where there are none."""
        return None

    def forward(self, batch: Batch) -> Features:
        """Encode a batch."""
        raise NotImplementedError

    def config_dict(self) -> dict[str, Any]:
        """The configuration as plain values, ready for JSON."""
        return asdict(self.config)


def config_from(kind: type[ConfigT], plain: Mapping[str, Any], name: str) -> ConfigT:
    """Build the dataclass `kind` from plain values; unknown keys are a UsageError that lists the known ones."""
    assert is_dataclass(kind)
    known = [one.name for one in fields(kind)]
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise UsageError(f"{name}: unknown key {', '.join(unknown)}; known keys: {', '.join(known)}")
    tidy = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    for one in fields(kind):
        _check_type(one, tidy.get(one.name), name)
    try:
        return kind(**tidy)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from None


def check_bands(name: str, series: Series, bands: int) -> None:
    """Refuse values that are no (B, T, C, H, W) of so many bands (ArgumentError)."""
    if series.values.ndim != 5:
        raise ArgumentError(
            f"{name} values have shape {tuple(series.values.shape)}, expected (B, T, C, H, W); collate samples first"
        )
    if series.values.shape[2] != bands:
        raise ArgumentError(f"{name} has {series.values.shape[2]} bands, this encoder takes {bands}")


def _check_type(known: Field, value: Any, name: str) -> None:
    """Refuse a value of another type than the field's default, where that is a plain one."""
    default = known.default
    if value is None or not isinstance(default, int | float | str):
        return
    fits = isinstance(value, int | float) if type(default) is float else isinstance(value, type(default))
    if not fits or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UsageError(f"{name}: {known.name} = {value!r}, expected a {type(default).__name__} such as {default!r}")
