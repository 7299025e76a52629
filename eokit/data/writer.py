"""Writes a data set into one store: shards in parallel processes, resumable, renamed into place when whole.

    <dest>.partial/            the store while it is written; its manifest/ says which shards are finished
    <dest>                     the store, from the moment it is whole

Called by `eokit prepare` and `eokit demo`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eokit.data.finish import finish_store
from eokit.data.layout import LAYOUTS
from eokit.data.plan import Plan, make_plan
from eokit.data.shard_writer import write_aside
from eokit.data.spec import Entry, LabelSpec, ModalitySpec, Source, StoreSpec
from eokit.data.tasks import MANIFEST, Job, Record, run_in_worker, run_task, start_worker
from eokit.errors import ArgumentError, DataError, SetupError, TargetError, UsageError
from eokit.files import put_in_place, writing
from eokit.progress import Progress

__all__ = ["Entry", "LabelSpec", "ModalitySpec", "Source", "StoreSpec", "WriteOptions", "WriteResult", "write_store"]


@dataclass(frozen=True)
class WriteOptions:
    """How `write_store` works.

    layout: how pixels are chunked, see `eokit.data.layout`. workers: processes; 1 works in this one.
    resume: go on where an interrupted run stopped.
    overwrite: replace the store at the destination, once the new one is whole.
    on_error: a sample that cannot be read stops the work, or is left out and listed in the result and the store.
    """

    layout: Literal["default", "pixel", "tile"] = "default"
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ArgumentError(f"layout {self.layout!r}, expected one of {', '.join(LAYOUTS)}")
        if self.workers < 1:
            raise ArgumentError(f"workers = {self.workers}, expected at least 1")


@dataclass(frozen=True)
class WriteResult:
    """What was written. `input_bytes`: read from the source; `stored_bytes`: on disk; `skipped`: id -> reason."""

    path: Path
    samples: int
    input_bytes: int
    stored_bytes: int
    seconds: float
    skipped: dict[str, str]


def write_store(source: Source, dest: Path, options: WriteOptions = WriteOptions()) -> WriteResult:
    """Write all samples of `source` to a store at `dest`.

    UsageError: something is there already. DataError: a sample cannot be read. TargetError: the disk refuses.
    After either the finished shards stay in `<dest>.partial` for `resume`.
    """
    started = time.monotonic()
    plan = make_plan(source.spec, source.entries, options.layout)
    partial = dest.with_name(dest.name + ".partial")
    _prepare(dest, partial, plan, options)
    if not (partial / "zarr.json").is_file():
        _write(Job(source, plan, partial, options.on_error == "stop"), options)
    _put_in_place(partial, dest)
    skipped = json.loads((dest / "zarr.json").read_bytes())["attributes"]["skipped"]
    return WriteResult(
        path=dest,
        samples=len(source.entries) - len(skipped),
        input_bytes=sum(source.input_bytes(entry) for entry in source.entries),
        stored_bytes=sum(file.stat().st_size for file in dest.rglob("*") if file.is_file()),
        seconds=time.monotonic() - started,
        skipped=skipped,
    )


def _prepare(dest: Path, partial: Path, plan: Plan, options: WriteOptions) -> None:
    """Make room for the new store, or find the one to go on with: unfinished, or whole and not yet in place."""
    if dest.exists():
        if not options.overwrite:
            raise UsageError(f"{dest} exists; add --overwrite to replace it, or choose another place")
        if not _is_store(dest):
            raise UsageError(f"{dest} exists and is no store, so it is not replaced; choose another place")
    plan_file = partial / MANIFEST / "plan.json"
    if partial.exists() and options.resume:
        whole = (partial / "zarr.json").is_file() and not plan_file.is_file()
        if not whole and (not plan_file.is_file() or json.loads(plan_file.read_bytes()) != plan.digest):
            raise UsageError(
                f"{partial} was begun from other data or with other options;"
                " give the same ones again, or start anew with --overwrite and without --resume"
            )
        for cut_off in partial.rglob(".*"):
            cut_off.unlink()
        return
    with writing(partial):
        if partial.exists():
            if not options.overwrite:
                raise UsageError(f"{partial} is an unfinished store; use --resume to go on, --overwrite to start anew")
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
    write_aside(plan_file, json.dumps(plan.digest).encode())


def _is_store(path: Path) -> bool:
    return path.is_dir() and ((path / "zarr.json").is_file() or not any(path.iterdir()))


def _write(job: Job, options: WriteOptions) -> None:
    """All shards, then the documents that make them a store."""
    records = _run_until_whole(job, options)
    skipped = {name: reason for record in records for name, reason in record.failures.items()}
    try:
        finish_store(job, records, skipped, options.layout)
    except TargetError as error:
        raise TargetError(f"{error}{_way_on(job)}") from None


def _run_until_whole(job: Job, options: WriteOptions) -> list[Record]:
    """A record of every task, in the plan's order, all without the same samples.

    A sample that one task could not read is left out of the others by doing those again.
    """
    tasks = job.plan.tasks
    records = {number: found for number, task in enumerate(tasks) if (found := Record.load(job.root, task.key))}
    if job.stop_on_error:
        records = {number: record for number, record in records.items() if not record.left_out}
    with Progress("prepare", len(tasks), quiet=options.quiet, done=len(records)) as bar:
        speed = _Speed(job, {number: tasks[number].raw_bytes for number in records})
        while pending := _pending(job, records):
            skipped = frozenset(name for record in records.values() for name in record.failures)
            for number, record in _run(job, pending, skipped, options.workers):
                again = number in records
                failures = record.failures | (records[number].failures if again else {})
                records[number] = Record(record.files, failures, record.left_out, record.class_counts)
                if again:
                    records[number].save(job.root, tasks[number].key)
                bar.advance(0 if again else 1, mb_s=speed.after(number))
    return [records[number] for number in range(len(tasks))]


def _pending(job: Job, records: dict[int, Record]) -> list[int]:
    skipped = {name for record in records.values() for name in record.failures}
    pending = []
    for number, task in enumerate(job.plan.tasks):
        ids = {job.source.entries[part.slot].id for part in task.parts}
        if number not in records or ids & skipped != set(records[number].left_out):
            pending.append(number)
    return pending


def _run(job: Job, pending: list[int], leave_out: frozenset[str], workers: int) -> Iterator[tuple[int, Record]]:
    """Do the pending tasks; when one fails the others are called off and its error says how to go on."""
    try:
        if min(workers, len(pending)) == 1:
            for number in pending:
                yield number, run_task(job, job.plan.tasks[number], leave_out)
            return
        # Spawned, not forked: the parent may have threads of torch, whose locks a fork would copy as they are.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(pending)), context, start_worker, (job,)) as pool:
            futures = {pool.submit(run_in_worker, number, leave_out): number for number in pending}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except TargetError as error:
        need = sum(job.plan.tasks[number].raw_bytes for number in pending) / 1e6
        raise TargetError(f"{error}; the store needs at most {need:.1f} MB more{_way_on(job)}") from None
    except DataError as error:
        raise DataError(f"{error}{_way_on(job)}") from None
    except BrokenProcessPool:
        raise SetupError(
            f"a worker process was killed, perhaps for want of memory; use fewer --workers{_way_on(job)}"
        ) from None


def _way_on(job: Job) -> str:
    """How to go on after an error; nothing is left behind when nothing was finished."""
    manifest = job.root / MANIFEST
    if any((manifest / f"{task.key}.json").exists() for task in job.plan.tasks):
        return f" (finished shards are kept in {job.root}; go on with --resume)"
    shutil.rmtree(job.root, ignore_errors=True)
    return ""


def _put_in_place(partial: Path, dest: Path) -> None:
    """Drop the manifest, rename the finished store to its name, and make sure that the disk knows."""
    with writing(dest, hint="go on with --resume"):
        if (partial / MANIFEST).exists():
            shutil.rmtree(partial / MANIFEST)
        put_in_place(partial, dest)
        parent = os.open(dest.parent, os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


class _Speed:
    """MB of input a second since the start, from the share of uncompressed bytes that is done."""

    def __init__(self, job: Job, done: dict[int, int]) -> None:
        self._started = time.monotonic()
        self._raw = [task.raw_bytes for task in job.plan.tasks]
        total = sum(self._raw)
        inputs = sum(job.source.input_bytes(entry) for entry in job.source.entries)
        self._share = inputs / total / 1e6 if total else 0.0
        self._done = 0

    def after(self, number: int) -> float:
        """MB/s now that the task `number` is done."""
        self._done += self._raw[number]
        return self._done * self._share / max(time.monotonic() - self._started, 1e-6)
