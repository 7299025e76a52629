"""What a data set hands to the store writer, and what a store says about itself: specs, entries, the Source protocol.

A format (`eokit.data.formats.*`) makes a `Source`; `eokit.data.writer.write_store` turns it into a store;
`eokit.data.store.Store` gives the same specs back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from eokit.data.preprocessing import NODATA

DTYPES = ("int16", "uint16", "uint8")
"""Stored dtypes of a modality: at most 16 bits, so that statistics are exact histograms of every value."""


@dataclass(frozen=True)
class ModalitySpec:
    """One modality of a store. physical value = stored value x `scale`; `gsd`: metres a pixel.

    shape: (C, H, W) of one date, the same for every sample. `nodata`: stored value of an unobserved pixel in all bands.
    """

    name: str
    sensor: str
    bands: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: str = "int16"
    scale: float = 1.0
    nodata: int | None = NODATA
    gsd: float = 10.0


@dataclass(frozen=True)
class LabelSpec:
    """One label layer. `classes[k]` names value k; `ignore`: the value that is no label (void).

    shape: (H, W) a map; () one class id of the whole sample; (K,) whether each of the K classes occurs in it, 0 or 1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    ignore: int | None = None

    @property
    def is_map(self) -> bool:
        """Whether every pixel has its own value."""
        return len(self.shape) == 2

    @property
    def multilabel(self) -> bool:
        """Whether a sample has several classes at once, as a vector of 0 and 1."""
        return len(self.shape) == 1


@dataclass(frozen=True)
class Entry:
    """One sample before it is read. `days`: modality -> (T,) int32, days since 1970-01-01, in the order of `read`.

    transform: the six affine numbers of the 10 m (or finest) grid in `crs`. footprint: shapely geometry, lon/lat.
    extra: plain values kept in the index as they are (JSON).
    """

    id: str
    fold: int
    days: Mapping[str, np.ndarray]
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    footprint: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreSpec:
    """What a whole store holds and where it comes from. `synthetic` is shown wherever the data are."""

    dataset: str
    title: str
    licence: str
    citation: str
    synthetic: bool
    modalities: tuple[ModalitySpec, ...]
    labels: tuple[LabelSpec, ...] = ()


class Source(Protocol):
    """A readable data set; picklable, because worker processes read from it."""

    spec: StoreSpec
    entries: list[Entry]

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        """(T, C, H, W) in the stored dtype with nodata set in all bands; DataError when it cannot be read."""

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        """Label name -> array of the spec's shape; DataError when one cannot be read."""

    def input_bytes(self, entry: Entry) -> int:
        """Bytes of input behind this sample, for the MB/s of the progress bar."""
