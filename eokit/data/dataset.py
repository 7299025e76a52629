"""A store as a torch data set: chosen samples, normalised, with dates and a window picked before anything is read.

Training asks for `Draw`s, so that everything random about a sample follows from (seed, draw, index) and never from
which worker reads it when. A plain index is the deterministic reading of evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, lcm
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Sample, Series, Where
from eokit.data.store import Store, Window
from eokit.data.transforms import Transform
from eokit.errors import ArgumentError, DataError


class Draw(NamedTuple):
    """The `draw`-th time that position `index` of a data set is drawn: seeds everything random about the sample."""

    draw: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a draw


@dataclass(frozen=True)
class DatePolicy:
    """At most `most` dates of each modality: a random subset in training, evenly spaced dates in evaluation."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ArgumentError(f"most = {self.most}, expected at least one date")

    def pick(self, count: int, rng: np.random.Generator | None) -> np.ndarray:
        """Which of `count` dates to read, in ascending order; `rng` None: evenly spaced, first and last among them."""
        if count <= self.most:
            return np.arange(count)
        if rng is not None:
            return np.sort(rng.choice(count, self.most, replace=False))
        return np.linspace(0, count - 1, self.most).round().astype(np.int64)


class SampleDataset(Dataset[Sample]):
    """Samples `indices` of a store, as `preprocessing` says; each is read when it is asked for."""

    def __init__(
        self,
        store_path: Path | str,
        indices: Sequence[int] | np.ndarray,
        preprocessing: Preprocessing,
        *,
        targets: Sequence[str] = (),
        dates: DatePolicy | None = None,
        crop: int | None = None,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
    ) -> None:
        """`crop`: edge in pixels of the first modality of `preprocessing`; the others and targets are cut alike.

        WeightsError when the store's sensors or bands are not those of `preprocessing`, DataError when it lacks one of
        them or a target, ArgumentError when a crop does not fall on whole pixels of every modality.
        """
        self.store = Store.open(store_path)
        self.indices = np.asarray(indices, np.int64)
        self.preprocessing = preprocessing
        self.targets, self.dates, self.transforms = tuple(targets), dates, tuple(transforms)
        self.crop, self.seed = crop, seed
        for name, spec in self.store.modalities.items():
            if name in preprocessing.inputs:
                preprocessing.check(name, sensor=spec.sensor, bands=spec.bands, source=str(store_path))
        shapes = {name: self._shape(name) for name in preprocessing.inputs}
        self._reference = next(iter(shapes.values()))
        labels = [shape for name in self.targets if len(shape := self._label_shape(name)) == 2]
        heights = [shape[0] for shape in (*shapes.values(), *labels)]
        self._step = lcm(*(self._reference[0] // gcd(self._reference[0], height) for height in heights))
        if crop is not None and (crop % self._step or not 0 < crop <= min(self._reference)):
            first, side = next(iter(shapes)), min(self._reference)
            metres = f"{crop * self.store.modalities[first].gsd:g} m"
            raise ArgumentError(
                f"{store_path}: crop = {crop} px of {first} ({metres}), expected at most {side} and a multiple of"
                f" {self._step}, whole pixels of {', '.join([*shapes, *self.targets])}"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | Draw) -> Sample:
        """A `Draw`: random dates and window. An int: all dates or evenly spaced ones, the central window, draw 0."""
        draw, index = key if isinstance(key, Draw) else (0, int(key))
        rng = np.random.default_rng([self.seed, draw, index])
        number = int(self.indices[index])
        chance = rng if isinstance(key, Draw) else None
        corner = self._corner(chance)
        series = {name: self._series(name, number, corner, chance) for name in self.preprocessing.inputs}
        targets = {name: self._target(name, number, corner) for name in self.targets}
        sample = Sample(series, self._where(number, corner), targets)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample

    def _series(
        self, name: str, number: int, corner: tuple[int, int] | None, chance: np.random.Generator | None
    ) -> Series:
        days = self.store.days(name, number)
        dates = None if self.dates is None else self.dates.pick(len(days), chance)
        stored = self.store.read(name, number, dates, self._window(self._shape(name), corner))
        values, valid = self.preprocessing.apply(name, stored)
        chosen = np.array(days if dates is None else days[dates], np.int32)
        sensor = self.preprocessing.inputs[name].sensor
        return Series(torch.from_numpy(values), torch.from_numpy(chosen), torch.from_numpy(valid), sensor)

    def _target(self, name: str, number: int, corner: tuple[int, int] | None) -> torch.Tensor:
        """A crop of a map; a label of the whole sample stays as it is, () or (K,)."""
        shape = self._label_shape(name)
        layer = self.store.read_label(name, number, self._window(shape, corner) if len(shape) == 2 else None)
        return torch.from_numpy(layer.astype(np.int64))

    def _corner(self, chance: np.random.Generator | None) -> tuple[int, int] | None:
        """Upper left corner (y, x) of the crop in pixels of the first modality; None without a crop."""
        if self.crop is None:
            return None
        places = [(length - self.crop) // self._step for length in self._reference]
        picked = [count // 2 if chance is None else int(chance.integers(count + 1)) for count in places]
        return picked[0] * self._step, picked[1] * self._step

    def _window(self, shape: tuple[int, ...], corner: tuple[int, int] | None) -> Window | None:
        """The crop in pixels of a map of `shape` that covers the same ground as the first modality."""
        if corner is None or self.crop is None:
            return None
        (y, x), (height, width) = corner, self._reference
        rows = [position * shape[0] // height for position in (y, y + self.crop)]
        columns = [position * shape[1] // width for position in (x, x + self.crop)]
        return rows[0], rows[1], columns[0], columns[1]

    def _where(self, number: int, corner: tuple[int, int] | None) -> Where:
        """Where the crop lies: the store's transform, of the grid of its first modality, moved to the corner."""
        where = self.store.where(number)
        if corner is None or where.transform is None:
            return where
        finest = next(iter(self.store.modalities.values())).shape
        y, x = (at * own / all_ for at, own, all_ in zip(corner, finest[-2:], self._reference, strict=True))
        a, b, c, d, e, f = where.transform
        return replace(where, transform=(a, b, c + a * x + b * y, d, e, f + d * x + e * y))

    def _shape(self, name: str) -> tuple[int, int]:
        if name not in self.store.modalities:
            raise DataError(f"{self.store.path} has no {name!r}; it has {', '.join(self.store.modalities)}")
        return self.store.modalities[name].shape[-2:]

    def _label_shape(self, name: str) -> tuple[int, ...]:
        if name not in self.store.labels:
            there = ", ".join(self.store.labels) or "none"
            raise DataError(f"{self.store.path} has no label layer {name!r}; it has {there}")
        return self.store.labels[name].shape
