"""One task of writing a store, as a worker process does it: read the samples of a shard, check, count, write it.

What a finished task leaves is a record in the manifest; `--resume` does the tasks again that have none.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from eokit.data.plan import Plan, Task
from eokit.data.shard_writer import ShardWriter, write_aside
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, Source
from eokit.data.statistics import Histogram
from eokit.errors import ArgumentError, DataError

MANIFEST = "manifest"
"""Folder within an unfinished store: a record (and the histograms) of every finished task."""


@dataclass(frozen=True)
class Record:
    """What a finished task did. files: path -> [bytes, crc32c]; failures: id -> reason; left_out: ids not stored.

    class_counts: label -> fold -> pixels (of a label of whole samples: samples) of every class.
    """

    files: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    class_counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def save(self, root: Path, key: str) -> None:
        """Write the record; from now on the task counts as done."""
        write_aside(root / MANIFEST / f"{key}.json", json.dumps(asdict(self), sort_keys=True).encode())

    @classmethod
    def load(cls, root: Path, key: str) -> Record | None:
        """The record of a task, or None when it was not finished or its files are not as they were written."""
        try:
            record = cls(**json.loads((root / MANIFEST / f"{key}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return record if all(_fingerprint(root / file) == facts for file, facts in record.files.items()) else None


@dataclass(frozen=True)
class Job:
    """What every worker needs to do any task."""

    source: Source
    plan: Plan
    root: Path
    stop_on_error: bool


def run_task(job: Job, task: Task, leave_out: Collection[str]) -> Record:
    """Do one task and record it. A DataError of a sample stops it, or leaves the sample out, as the job says."""
    record = _write_labels(job, task, leave_out) if task.modality is None else _write_series(job, task, leave_out)
    record.save(job.root, task.key)
    return record


def start_worker(job: Job) -> None:
    """Set up a worker process: keep the job, leave Ctrl-C to the parent, and end when the parent is gone."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def run_in_worker(number: int, leave_out: Collection[str]) -> Record:
    """`run_task` with the job that `start_worker` was given."""
    return run_task(_job, _job.plan.tasks[number], leave_out)


_job: Job


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_series(job: Job, task: Task, leave_out: Collection[str]) -> Record:
    spec = next(one for one in job.source.spec.modalities if one.name == task.modality)
    histogram = Histogram(spec.shape[0], spec.dtype, spec.nodata)
    failures: dict[str, str] = {}
    with ShardWriter(job.root, task.layouts[0], task.number) as shard:
        for part in task.parts:
            entry = job.source.entries[part.slot]
            if entry.id in leave_out:
                continue
            try:
                values = _read_series(job.source, entry, spec)[part.first : part.last]
                _count(histogram, entry, spec, values)
            except DataError as error:
                if job.stop_on_error:
                    raise
                failures[entry.id] = str(error)
                continue
            shard.write(part.row, values)
    write_aside(job.root / MANIFEST / f"{task.key}.npz", histogram.to_bytes())
    return Record(_files(job, [shard]), failures, _left_out(job, task, leave_out, failures))


def _write_labels(job: Job, task: Task, leave_out: Collection[str]) -> Record:
    specs = job.source.spec.labels
    counts: dict[str, dict[str, list[int]]] = {spec.name: {} for spec in specs if spec.classes is not None}
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        shards = [stack.enter_context(ShardWriter(job.root, layout, task.number)) for layout in task.layouts]
        for part in task.parts:
            entry = job.source.entries[part.slot]
            if entry.id in leave_out:
                continue
            try:
                layers = _read_labels(job.source, entry)
            except DataError as error:
                if job.stop_on_error:
                    raise
                failures[entry.id] = str(error)
                continue
            for spec, layout, shard in zip(specs, task.layouts, shards, strict=True):
                shard.write(part.row, layers[spec.name].reshape(1, *layout.shape[1:]))
                if spec.classes is not None:
                    _add(counts[spec.name], entry.fold, layers[spec.name], spec)
    return Record(_files(job, shards), failures, _left_out(job, task, leave_out, failures), counts)


def _read_series(source: Source, entry: Entry, spec: ModalitySpec) -> np.ndarray:
    """The dates of one sample, checked against what the source promised."""
    values = source.read(entry, spec.name)
    expected = (len(entry.days[spec.name]), *spec.shape)
    if values.shape != expected:
        raise DataError(f"sample {entry.id}: {spec.name} has shape {values.shape}, expected {expected} (T, C, H, W)")
    if values.dtype != spec.dtype:
        raise DataError(f"sample {entry.id}: {spec.name} is {values.dtype}, expected {spec.dtype}")
    return values


def _count(histogram: Histogram, entry: Entry, spec: ModalitySpec, values: np.ndarray) -> None:
    try:
        histogram.add(entry.fold, values)
    except ArgumentError as error:
        raise DataError(f"sample {entry.id}: {spec.name}: {error}") from None


def _read_labels(source: Source, entry: Entry) -> dict[str, np.ndarray]:
    """The label layers of one sample, checked: shapes, values that fit their dtype, class ids that have a name."""
    layers = source.read_labels(entry)
    checked = {}
    for spec in source.spec.labels:
        if spec.name not in layers:
            raise DataError(f"sample {entry.id}: no label layer {spec.name}; it has {', '.join(layers) or 'none'}")
        layer = layers[spec.name]
        if layer.shape != spec.shape:
            raise DataError(f"sample {entry.id}: {spec.name} has shape {layer.shape}, expected {spec.shape}")
        if layer.dtype.kind not in "iu":
            raise DataError(f"sample {entry.id}: {spec.name} is {layer.dtype}, expected integers")
        _check_values(entry, spec, layer)
        checked[spec.name] = layer.astype(spec.dtype)
    return checked


def _check_values(entry: Entry, spec: LabelSpec, layer: np.ndarray) -> None:
    info, low, high = np.iinfo(spec.dtype), int(layer.min()), int(layer.max())
    if low < info.min or high > info.max:
        raise DataError(f"sample {entry.id}: {spec.name} holds values {low}..{high}, {spec.dtype} cannot hold them")
    if spec.classes is None:
        return
    if spec.multilabel:
        if low < 0 or high > 1:
            raise DataError(
                f"sample {entry.id}: {spec.name} holds values {low}..{high}, expected 0 or 1 of every class"
            )
        return
    allowed = {*range(len(spec.classes)), spec.ignore}
    strange = [value for value in np.unique(layer).tolist() if value not in allowed]
    if strange:
        known = f"0..{len(spec.classes) - 1}" + ("" if spec.ignore is None else f" and {spec.ignore} (ignored)")
        raise DataError(f"sample {entry.id}: {spec.name} holds the unknown class id {strange[0]}; known are {known}")


def _add(counts: dict[str, list[int]], fold: int, layer: np.ndarray, spec: LabelSpec) -> None:
    """Add the pixels of every class; values beyond the classes (an ignore value of 255) are not counted."""
    classes = len(spec.classes or ())
    found = layer if spec.multilabel else np.bincount(layer.ravel().astype(np.int64), minlength=classes)[:classes]
    earlier = counts.get(str(fold), [0] * classes)
    counts[str(fold)] = [int(a + b) for a, b in zip(earlier, found, strict=True)]


def _left_out(job: Job, task: Task, leave_out: Collection[str], failures: dict[str, str]) -> list[str]:
    ids = {job.source.entries[part.slot].id for part in task.parts}
    return sorted(ids & ({*leave_out} | failures.keys()))


def _files(job: Job, shards: list[ShardWriter]) -> dict[str, list[int]]:
    return {str(one.file.relative_to(job.root)): [one.size, one.checksum] for one in shards if one.size}


def _fingerprint(file: Path) -> list[int]:
    """Bytes and crc32c of a file, as a record holds them; empty when it cannot be read."""
    import google_crc32c

    checksum = size = 0
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum = google_crc32c.extend(checksum, block)
                size += len(block)
    except OSError:
        return []
    return [size, checksum]
