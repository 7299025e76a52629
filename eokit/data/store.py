"""Opens a store and reads samples from it; imports neither torch nor zarr nor geopandas.

    store = Store.open("data/pastis.zarr")
    store.read("s2", 3, dates=[0, 5], window=(0, 64, 0, 64))   # (2, 10, 64, 64) int16

Called by the data sets, the statistics, and everything that inspects or maps a store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eokit.data import shard_list
from eokit.data.index import Index, read_index
from eokit.data.layout import SCHEMA_VERSION
from eokit.data.shard_list import CURE, ShardList
from eokit.data.shard_reader import ShardedArray
from eokit.data.shard_writer import read_small
from eokit.data.spec import LabelSpec, ModalitySpec
from eokit.errors import ArgumentError, DataError

if TYPE_CHECKING:
    from eokit.data.sample import Where

Window = tuple[int, int, int, int]
"""(y0, y1, x0, x1) in pixels of the modality or label read."""


FACTS = {"dataset", "title", "licence", "synthetic", "modalities", "labels"}
"""Attributes without which a store is damaged."""


class Store:
    """A store on disk: what is in it, and readers of pixels, days and labels by sample number. Can be pickled.

    shards: the list of its files, None where an older eokit made it.
    """

    def __init__(self, path: Path, attributes: dict[str, Any], arrays: dict[str, Any], index: Index) -> None:
        self.path = path
        self.attributes = attributes
        self.index = index
        self.modalities = {name: _modality(name, facts) for name, facts in attributes["modalities"].items()}
        self.labels = {name: _label(name, facts) for name, facts in attributes["labels"].items()}
        self._documents = arrays
        self.shards = ShardList(path) if attributes.get(shard_list.ATTRIBUTE) else None
        self._pixels = {name: self._array(f"{name}/data") for name in self.modalities}
        self._layers = {name: self._array(f"labels/{name}") for name in self.labels}
        self._small: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """The store at `path`; DataError when it is missing, unfinished, damaged or of a newer schema."""
        path = Path(path)
        root = _read_root(path)
        attributes = root["attributes"]
        version = attributes.get("schema_version")
        if not isinstance(version, int):
            raise DataError(f"{path}: a Zarr group without schema_version, no eokit store; make one with eokit prepare")
        if version > SCHEMA_VERSION:
            raise DataError(
                f"{path}: store schema {version}, this eokit reads up to {SCHEMA_VERSION}; use a newer eokit"
            )
        try:
            if lost := sorted(FACTS - attributes.keys()):
                raise ValueError(f"no {', '.join(lost)} in zarr.json")
            index = _read_index(path)
            return cls(path, attributes, root["consolidated_metadata"]["metadata"], index)
        except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise DataError(f"{path}: the store is damaged ({reason}); prepare it again with --overwrite") from None

    @property
    def dataset(self) -> str:
        """Name of the data set, e.g. pastis."""
        return self.attributes["dataset"]

    @property
    def synthetic(self) -> bool:
        """Whether the data were made up; whoever shows them says so."""
        return self.attributes["synthetic"]

    @property
    def ids(self) -> list[str]:
        """Names of the samples."""
        return self.index.ids

    @property
    def folds(self) -> np.ndarray:
        """(N,) int32 fold of every sample."""
        return self.index.folds

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """stats.json: modalities -> folds -> count, nodata_share, mean, std, quantiles; labels -> folds -> counts."""
        try:
            found = json.loads((self.path / "stats.json").read_bytes())
            if lost := sorted(self.modalities.keys() - found["modalities"].keys()):
                raise ValueError(f"nothing of {', '.join(lost)}")
            found["labels"].keys()
            return found
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path / 'stats.json'}: cannot be read ({error}); prepare the store again") from None

    def __len__(self) -> int:
        return len(self.ids)

    def days(self, modality: str, sample: int) -> np.ndarray:
        """(T,) int32, days since 1970-01-01."""
        start, count = self._offset(modality, sample)
        return self._small_array(f"{modality}/days")[start : start + count]

    def read(
        self, modality: str, sample: int, dates: Sequence[int] | np.ndarray | None = None, window: Window | None = None
    ) -> np.ndarray:
        """(t, C, h, w) in the stored dtype: all dates or the chosen ones (in their order), the patch or a window."""
        start, count = self._offset(modality, sample)
        chosen = np.arange(count) if dates is None else np.asarray(dates, np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= count):
            raise ArgumentError(f"dates {chosen.min()}..{chosen.max()} of {self.ids[sample]}, it has 0..{count - 1}")
        _check_window(window, self.modalities[modality].shape[-2:])
        return self._pixels[modality].read(start + chosen, window)

    def read_label(self, name: str, sample: int, window: Window | None = None) -> np.ndarray:
        """(h, w) of one label layer; of a label of the whole sample (K,) or (), and there is no window of it."""
        if name not in self.labels:
            raise DataError(f"{self.path}: no label layer {name!r}; it has {', '.join(self.labels) or 'none'}")
        spec, row = self.labels[name], self.index.slots[sample : sample + 1]
        if not spec.is_map:
            if window is not None:
                raise ArgumentError(f"window {window} of {name}, a label of whole samples; read it without a window")
            return self._layers[name].read(row)[0].reshape(spec.shape)
        _check_window(window, spec.shape)
        return self._layers[name].read(row, window)[0]

    def where(self, sample: int) -> Where:
        """Where the sample lies."""
        from eokit.data.sample import Where

        index = self.index
        return Where(
            index.ids[sample], index.crs[sample], index.transforms[sample], index.lon[sample], index.lat[sample]
        )

    def select(self, folds: Sequence[int] | None = None, limit: int | None = None) -> np.ndarray:
        """Sample numbers of `folds` (all when None), the first `limit` of them; DataError when none is left."""
        chosen = np.arange(len(self)) if folds is None else np.flatnonzero(np.isin(self.folds, list(folds)))
        if not len(chosen):
            there = ", ".join(str(fold) for fold in np.unique(self.folds)) or "none"
            wanted = ", ".join(map(str, folds or ()))
            raise DataError(f"{self.path}: no sample in folds {wanted}; its folds are {there}")
        return chosen[:limit]

    def class_counts(self, label: str = "semantic", folds: Sequence[int] | None = None) -> np.ndarray:
        """(K,) int64: pixels of every class in `folds` (all when None), or samples of a label of whole samples."""
        if label not in self.statistics["labels"]:
            there = ", ".join(self.statistics["labels"]) or "none"
            raise DataError(f"{self.path}: {label!r} has no classes to count; labels that have: {there}")
        by_fold = self.statistics["labels"][label]
        chosen = [by_fold[str(fold)] for fold in (by_fold if folds is None else folds) if str(fold) in by_fold]
        return np.array([[0] * len(self.labels[label].classes or ()), *chosen], np.int64).sum(0)

    def _array(self, path: str) -> ShardedArray:
        return ShardedArray(self.path / path, self._documents[path], self.shards)

    def _offset(self, modality: str, sample: int) -> tuple[int, int]:
        """First row and number of dates of a sample."""
        if modality not in self.modalities:
            raise DataError(f"{self.path}: no modality {modality!r}; it has {', '.join(self.modalities)}")
        start, count = self._small_array(f"{modality}/offset")[sample].tolist()
        return start, count

    def _small_array(self, path: str) -> np.ndarray:
        if path not in self._small:
            try:
                self._small[path] = read_small(self.path, self._documents[path], path)
            except (OSError, KeyError, TypeError, ValueError) as error:
                raise DataError(f"{self.path / path}: is damaged ({error}); prepare the store again") from None
        return self._small[path]


def _read_root(path: Path) -> dict[str, Any]:
    """The root zarr.json; DataError says what is there instead."""
    file = path / "zarr.json"
    if not file.is_file():
        partial = path.with_name(path.name + ".partial")
        hint = f"; {partial} is unfinished, go on with eokit prepare --resume" if partial.exists() else ""
        what = "is no store (it has no zarr.json)" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}{hint or '; make it with eokit prepare'}")
    try:
        root = json.loads(file.read_bytes())
        root["attributes"].get("schema_version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read as the head of a store ({error}); prepare it again") from None
    return root


def _read_index(path: Path) -> Index:
    file = path / "index.parquet"
    try:
        return read_index(file)
    except FileNotFoundError:
        raise DataError(f"{file} is missing, the store is not whole; {CURE}") from None


def _modality(name: str, facts: dict[str, Any]) -> ModalitySpec:
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    known.pop("wavelength", None)
    return ModalitySpec(name, **known)


def _label(name: str, facts: dict[str, Any]) -> LabelSpec:
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return LabelSpec(name, **known)


def _check_window(window: Window | None, shape: Sequence[int]) -> None:
    if window is None:
        return
    y0, y1, x0, x1 = window
    height, width = shape
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise ArgumentError(f"window {window} (y0, y1, x0, x1), expected one within (0, {height}, 0, {width})")
