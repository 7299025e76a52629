"""The work of writing a store, cut into tasks: one shard of a modality, or one shard of every label layer.

A plan follows from the source's specs and entries alone, so that an interrupted run finds the same tasks again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from eokit.data.layout import ArrayLayout, label_layouts, modality_layout
from eokit.data.sensors import get_sensor
from eokit.data.spec import DTYPES, Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import DataError


class Part(NamedTuple):
    """Dates `first`..`last` of the sample `slot`, to be stored from `row` of the task's shard on."""

    slot: int
    first: int
    last: int
    row: int


@dataclass(frozen=True)
class Task:
    """One shard: `number` of each of `layouts`. modality: its name, or None for the label layers."""

    key: str
    modality: str | None
    layouts: tuple[ArrayLayout, ...]
    number: int
    parts: tuple[Part, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes of the task's samples before compression."""
        rows = sum(part.last - part.first for part in self.parts)
        return sum(rows * prod(one.shape[1:]) * np.dtype(one.dtype).itemsize for one in self.layouts)


@dataclass(frozen=True)
class Plan:
    """All tasks, and where everything will lie. starts: modality -> first row (N,) of every sample."""

    tasks: tuple[Task, ...]
    arrays: dict[str, ArrayLayout]
    labels: dict[str, ArrayLayout]
    starts: dict[str, np.ndarray]
    digest: str


def make_plan(spec: StoreSpec, entries: list[Entry], layout: str) -> Plan:
    """The plan of a store; DataError where specs or entries cannot be a store."""
    _check(spec, entries)
    tasks: list[Task] = []
    arrays, starts = {}, {}
    for modality in spec.modalities:
        counts = [len(entry.days[modality.name]) for entry in entries]
        arrays[modality.name], starts[modality.name] = modality_layout(modality, counts, layout)
        tasks += _series_tasks(modality.name, arrays[modality.name], starts[modality.name], counts)
    labels = dict(zip((one.name for one in spec.labels), label_layouts(spec.labels, len(entries)), strict=True))
    tasks += _label_tasks(tuple(labels.values()), len(entries))
    return Plan(tuple(tasks), arrays, labels, starts, _digest(spec, entries, layout))


def _series_tasks(name: str, array: ArrayLayout, starts: np.ndarray, counts: list[int]) -> Iterator[Task]:
    rows = array.shard[0]
    parts: dict[int, list[Part]] = defaultdict(list)
    for slot, (start, count) in enumerate(zip(starts.tolist(), counts, strict=True)):
        first = 0
        while first < count:
            shard, row = divmod(start + first, rows)
            last = min(first + rows - row, count)
            parts[shard].append(Part(slot, first, last, row))
            first = last
    for shard in sorted(parts):
        yield Task(f"{name}-{shard:06d}", name, (array,), shard, tuple(parts[shard]))


def _label_tasks(layouts: tuple[ArrayLayout, ...], samples: int) -> Iterator[Task]:
    if not layouts:
        return
    rows = layouts[0].shard[0]
    for shard, first in enumerate(range(0, samples, rows)):
        parts = tuple(Part(slot, 0, 1, slot - first) for slot in range(first, min(first + rows, samples)))
        yield Task(f"labels-{shard:06d}", None, layouts, shard, parts)


def _check(spec: StoreSpec, entries: list[Entry]) -> None:
    if not entries:
        raise DataError(f"{spec.dataset}: no samples to write; check the path and --limit")
    repeated = [name for name, count in Counter(entry.id for entry in entries).items() if count > 1]
    if repeated:
        raise DataError(f"{spec.dataset}: {len(repeated)} sample ids occur twice, the first is {repeated[0]}")
    for label in spec.labels:
        _check_label(label)
    for modality in spec.modalities:
        _check_modality(modality)
        without = [entry.id for entry in entries if modality.name not in entry.days]
        if without:
            raise DataError(f"{spec.dataset}: sample {without[0]} has no dates of {modality.name}; give an empty array")


def _check_modality(modality: ModalitySpec) -> None:
    sensor = get_sensor(modality.sensor)
    for band in modality.bands:
        sensor.band(band)
    if modality.dtype not in DTYPES:
        raise DataError(f"{modality.name}: dtype {modality.dtype}, a store holds {', '.join(DTYPES)}")
    if len(modality.bands) != modality.shape[0]:
        raise DataError(f"{modality.name}: {len(modality.bands)} band names for {modality.shape[0]} bands")


def _check_label(label: LabelSpec) -> None:
    if len(label.shape) > 2:
        raise DataError(f"{label.name}: labels of shape {label.shape}, expected (H, W), (K,) or ()")
    if label.multilabel and label.shape != (len(label.classes or ()),):
        named = len(label.classes or ())
        raise DataError(f"{label.name}: {named} class names for {label.shape[0]} classes; name every class")


def _digest(spec: StoreSpec, entries: list[Entry], layout: str) -> str:
    """A fingerprint of everything that a store's bytes follow from, but the pixels."""
    digest = hashlib.sha256(json.dumps([asdict(spec), layout], sort_keys=True).encode())
    for entry in entries:
        facts = [entry.id, entry.fold, entry.crs, entry.transform, str(entry.footprint), dict(entry.extra)]
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for name in sorted(entry.days):
            digest.update(name.encode() + np.asarray(entry.days[name], np.int32).tobytes())
    return digest.hexdigest()
