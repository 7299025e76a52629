"""Small sources for tests: pixels made from the sample's name, so that every process reads the same ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eokit.data.store import Store
from eokit.data.writer import Entry, LabelSpec, ModalitySpec, StoreSpec, WriteOptions, write_store
from eokit.errors import DataError

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
CLASSES = ("background", "meadow", "corn", "void")
NODATA = -32768


@dataclass
class MemorySource:
    """Synthetic samples; `broken`: ids that raise when their pixels are read."""

    spec: StoreSpec
    entries: list[Entry]
    broken: frozenset[str] = field(default_factory=frozenset)

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        if entry.id in self.broken and modality == self.spec.modalities[-1].name:
            raise DataError(f"sample {entry.id}: {modality} is truncated")
        spec = next(one for one in self.spec.modalities if one.name == modality)
        return pixels(entry.id, spec, len(entry.days[modality]))

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(zlib.crc32(entry.id.encode()))
        return {
            spec.name: np.asarray(rng.integers(0, _values(spec), spec.shape), spec.dtype) for spec in self.spec.labels
        }

    def input_bytes(self, entry: Entry) -> int:
        return sum(len(entry.days[m.name]) * int(np.prod(m.shape)) * 2 for m in self.spec.modalities)


def _values(spec: LabelSpec) -> int:
    """How many values a label takes."""
    return 2 if spec.multilabel else len(spec.classes or range(50))


def pixels(name: str, spec: ModalitySpec, dates: int) -> np.ndarray:
    """(T, C, H, W): a smooth field and noise, with nodata in a corner and on the whole second date."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {spec.name}".encode()))
    bands, height, width = spec.shape
    level = rng.integers(20, 90, (dates, bands, 1, 1)) + np.linspace(0, 60, height)[:, None]
    values = (level + rng.integers(0, 20, (dates, bands, height, width))).astype(spec.dtype)
    if spec.nodata is not None:
        values[:1, :, : height // 2, : width // 2] = spec.nodata
        values[1:2] = spec.nodata
    return values


def make_source(
    counts: Sequence[int] = (5, 9, 0, 12),
    *,
    size: int = 48,
    bands: int = 4,
    broken: Sequence[str] = (),
    spot: bool = False,
    whole: bool = False,
) -> MemorySource:
    """One sample a count of dates, in folds 1, 2, 1, 2 ...; `spot`: with an 8-bit image ten times as fine.

    whole: with labels of whole samples too, `multilabel` and `class`.
    """
    modalities = [
        ModalitySpec("s2", "sentinel-2", BANDS[:bands], (bands, size, size)),
        ModalitySpec("s1-asc", "sentinel-1", ("VV", "VH"), (2, size, size), scale=1 / 256),
    ]
    if spot:
        image = (3, 10 * size, 10 * size)
        modalities.append(ModalitySpec("spot", "spot-6", ("R", "G", "B"), image, "uint8", nodata=None, gsd=1.0))
    labels = (
        LabelSpec("semantic", "uint8", (size, size), CLASSES, ignore=3),
        LabelSpec("parcel", "int32", (size, size)),
    )
    if whole:
        labels += (LabelSpec("multilabel", "uint8", (4,), CLASSES), LabelSpec("class", "uint8", (), CLASSES))
    spec = StoreSpec("toy", "A synthetic toy", "CC0", "nobody", True, tuple(modalities), labels)
    entries = []
    for number, count in enumerate(counts):
        days = {"s2": 17_800 + 5 * np.arange(count), "s1-asc": 17_802 + 6 * np.arange(count + 1), "spot": [18_000]}
        entries.append(
            Entry(
                id=f"p{number}",
                fold=1 + number % 2,
                days={one.name: np.array(days[one.name], np.int32) for one in modalities},
                crs="EPSG:32631",
                transform=(10.0, 0.0, 500_000.0 + 480 * number, 0.0, -10.0, 5_000_000.0),
            )
        )
    return MemorySource(spec, entries, frozenset(broken))


def make_store(path: Path, source: MemorySource | None = None, **options) -> Store:
    """The source (default: `make_source()`) written in this process and opened."""
    write_store(source or make_source(), path, WriteOptions(**{"workers": 1, "quiet": True} | options))
    return Store.open(path)
