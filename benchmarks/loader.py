"""How fast a store is read and written, beside zarr-python and beside the decoder alone.

Synthetic patches (ten bands, smooth fields and noise like reflectance x 10000), files in the page cache. Every run
reads the next patch. "uncompiled" is the same reader with numcodecs for decoder, as it works where eokit was not
compiled; "numcodecs alone" is that decoder on the chunks of a patch, already in memory, its result not put in place: no
reader that uses it can be faster.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from eokit.errors import UsageError
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import Case, Prepared, Results, Run, Truth, Work
from eokit_bench.registry import LoaderSettings

BANDS = 10
CHOSEN = 16
"""Random dates of a patch, where not all are read."""
LAYOUTS = ("default", "tile")
COPIES = 4
"""Of every season on the disk: the files it is made from, a store in each layout, and one that is written again."""
READERS = ("eokit", "uncompiled", "zarr-python", "numcodecs alone")
DATE_READERS = ("eokit", "uncompiled", "zarr-python, by index", "zarr-python, all then choose")


@dataclass(frozen=True)
class Shape:
    """Of a season: `patches` of `dates` of `size` x `size` pixels."""

    patches: int
    dates: int
    size: int


def cases(settings: LoaderSettings) -> list[Case]:
    """By dates: whole patches in either layout, some dates of a patch, and writing."""
    found = []
    refuse_if_too_large_season(settings)
    for dates in settings.seq_len:
        shape = Shape(settings.patches, dates, settings.size)
        some = min(CHOSEN, dates)
        at = {"T": dates, "patches": shape.patches, "size": shape.size}
        for layout in LAYOUTS:
            told = {"op": "read", "layout": layout} | at
            found.append(make_case(told, READERS, partial(set_up_reading, shape, layout), pixels(shape, dates)))
        told = {"op": f"read {some} random dates", "layout": "default"} | at
        found.append(make_case(told, DATE_READERS, partial(set_up_dates, shape, some), pixels(shape, some)))
        told = {"op": "write", "layout": "default"} | at | {"workers": settings.workers}
        size = shape.patches * pixels(shape, dates)
        found.append(make_case(told, ("eokit",), partial(set_up_writing, shape, settings.workers), size))
    return found


def refuse_if_too_large_season(settings: LoaderSettings) -> None:
    """UsageError where a patch cannot fit into memory, or the seasons onto the disk of temporary files."""
    each = [pixels(Shape(settings.patches, dates, settings.size), dates) for dates in settings.seq_len]
    # While a patch is drawn, three arrays of float64 for its int16.
    refuse_if_too_large(12 * max(each), torch.device("cpu"), "--seq-len, --size")
    needed, place = COPIES * settings.patches * sum(each), tempfile.gettempdir()
    there = shutil.disk_usage(place).free
    if needed > there:
        raise UsageError(
            f"--seq-len, --patches, --size: the files would take about {needed / 1e9:.3g} GB in {place}, which has"
            f" {there / 1e9:.3g} GB free; choose smaller ones, or another folder with TMPDIR"
        )


def make_case(at: dict[str, Any], contenders: tuple[str, ...], setup: Callable[[], Prepared], size: int) -> Case:
    return Case(at, contenders, setup, lambda name: Work(size), peak=peak_of_arrays)


def pixels(shape: Shape, dates: int) -> int:
    """Bytes of so many dates of a patch, as read."""
    return dates * BANDS * shape.size**2 * 2


def set_up_reading(shape: Shape, layout: str) -> Prepared:
    """Every contender reads whole patches, one after the other."""
    store, reference, starts = open_both(make_store(shape, layout))
    frames = [compressed_chunks(store, sample) for sample in range(shape.patches)]
    whole = {
        "eokit": lambda sample: store.read("s2", sample),
        "uncompiled": lambda sample: read_without_native(store, sample),
        "zarr-python": lambda sample: reference[starts[sample] : starts[sample] + shape.dates],
        "numcodecs alone": decoder(frames, store._pixels["s2"]._chunk),
    }
    truths = {"numcodecs alone": same_as(last_chunk(frames[0]))}
    return prepare(whole, shape, lambda name: truths.get(name) or same_as(whole["zarr-python"](0)))


def set_up_dates(shape: Shape, count: int) -> Prepared:
    """The same random dates of a patch for every contender."""
    store, reference, starts = open_both(make_store(shape, "default"))
    rng = np.random.default_rng(0)
    picks = [np.sort(rng.choice(shape.dates, count, replace=False)) for _ in range(shape.patches)]
    readers = {
        "eokit": lambda sample: store.read("s2", sample, picks[sample]),
        "uncompiled": lambda sample: read_without_native(store, sample, picks[sample]),
        "zarr-python, by index": lambda sample: reference.oindex[starts[sample] + picks[sample]],
        "zarr-python, all then choose": lambda sample: reference[starts[sample] : starts[sample] + shape.dates][
            picks[sample]
        ],
    }
    return prepare(readers, shape, lambda name: same_as(readers["zarr-python, by index"](0)))


def set_up_writing(shape: Shape, workers: int) -> Prepared:
    """A whole store, written again and again; what is compared is its first patch."""
    from eokit.data.store import Store
    from eokit.data.writer import WriteOptions, write_store

    source = make_source(shape)
    written = source.folder / "written"

    def write() -> Results:
        shutil.rmtree(written, ignore_errors=True)
        write_store(source, written, WriteOptions(workers=workers, quiet=True))
        return {}

    def first_patch(results: Results) -> Results:
        return {"values": torch.from_numpy(Store.open(written).read("s2", 0))}

    known = torch.from_numpy(np.array(source.read(source.entries[0], "s2")))
    return Prepared({"eokit": write}, lambda name: Truth({"values": known}, {"values": known}, first_patch))


def prepare(readers: dict[str, Callable[[int], Any]], shape: Shape, truth: Callable[[str], Truth]) -> Prepared:
    """Runs that take the next patch each time; the first one, which is checked, takes the first patch."""

    def cycle(reader: Callable[[int], Any]) -> Run:
        samples = itertools.cycle(range(shape.patches))
        return lambda: {"values": torch.from_numpy(reader(next(samples)))}

    return Prepared({name: cycle(reader) for name, reader in readers.items()}, truth)


def same_as(values: Any) -> Truth:
    known = {"values": torch.from_numpy(np.asarray(values))}
    return Truth(known, known)


def open_both(path: Path) -> tuple[Any, Any, list[int]]:
    """The store in eokit and in zarr-python, and where its samples begin."""
    import zarr

    from eokit.data.store import Store

    store, array = Store.open(path), zarr.open_group(str(path), mode="r")["s2/data"]
    return store, array, [int(store._offset("s2", sample)[0]) for sample in range(len(store.ids))]


@cache
def folder(shape: Shape) -> tempfile.TemporaryDirectory[str]:
    """A place for the files of a season, until the process ends."""
    return tempfile.TemporaryDirectory(prefix="eokit-loader-")


@cache
def make_store(shape: Shape, layout: str) -> Path:
    from eokit.data.writer import WriteOptions, write_store

    path = Path(folder(shape).name, layout)
    write_store(make_source(shape), path, WriteOptions(layout=layout, quiet=True))  # type: ignore[arg-type]
    return path


class Files:
    """A source of one .npy file a sample, read through a memory map as a format does it."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        from eokit.data.sensors import get_sensor
        from eokit.data.writer import Entry, ModalitySpec, StoreSpec

        bands = get_sensor("sentinel-2").band_sets[BANDS]
        modality = ModalitySpec("s2", "sentinel-2", bands, (BANDS, shape.size, shape.size))
        self.spec = StoreSpec("benchmark", "Synthetic reflectances", "CC0", "", True, (modality,))
        days = {"s2": np.arange(shape.dates, dtype=np.int32) * 5 + 17_800}
        self.entries = [Entry(str(number), 1, days) for number in range(shape.patches)]
        self.folder = folder

    def read(self, entry: Any, modality: str) -> np.ndarray:
        return np.load(self.folder / f"{entry.id}.npy", mmap_mode="r")

    def read_labels(self, entry: Any) -> dict[str, np.ndarray]:
        return {}

    def input_bytes(self, entry: Any) -> int:
        return (self.folder / f"{entry.id}.npy").stat().st_size


@cache
def make_source(shape: Shape) -> Files:
    """Files of reflectance x 10000: eight smooth fields mixed by date and band, and noise of 25."""
    place, edge = Path(folder(shape).name), shape.size
    for number in range(shape.patches):
        rng = np.random.default_rng(number)
        fields = np.stack([smooth(rng, edge) for _ in range(8)])
        weights = rng.uniform(0, 160, (shape.dates, BANDS, 8))
        level = rng.uniform(300, 3500, (shape.dates, BANDS, 1, 1))
        noise = rng.normal(0, 25, (shape.dates, BANDS, edge, edge))
        values = level + np.einsum("tck,khw->tchw", weights, fields) + noise
        np.save(place / f"{number}.npy", values.clip(0, 16_000).astype(np.int16))
    return Files(place, shape)


def smooth(rng: np.random.Generator, edge: int) -> np.ndarray:
    """A field (H, W) of mean 0 and deviation 1 that varies over about 20 pixels."""
    y, x = np.meshgrid(np.fft.fftfreq(edge), np.fft.fftfreq(edge), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((edge, edge))) * np.exp(-700 * (x**2 + y**2))
    field = np.fft.ifft2(spectrum).real
    return (field - field.mean()) / field.std()


def read_without_native(store: Any, sample: int, dates: np.ndarray | None = None) -> np.ndarray:
    """A patch, or some dates of it, decoded by numcodecs."""
    from eokit.data import shard_reader

    with mock.patch.object(shard_reader, "_decode_rows", None):
        return store.read("s2", sample, dates)


def compressed_chunks(store: Any, sample: int) -> list[bytes]:
    """The checked compressed chunks of one patch, as the reader passes them to the decoder."""
    from eokit.data.shard_reader import ShardedArray

    kept: list[bytes] = []
    fetch = ShardedArray._fetch

    def keep(self: ShardedArray, *where: int) -> memoryview:
        frame = fetch(self, *where)
        kept.append(bytes(frame))
        return frame

    with mock.patch.object(ShardedArray, "_fetch", keep):
        store.read("s2", sample)
    return kept


def decoder(frames: list[list[bytes]], chunk: list[int]) -> Callable[[int], np.ndarray]:
    """Decodes all chunks of a patch, one after the other, into the same memory."""
    from eokit.data.shard_reader import contextual_blosc

    blosc, target = contextual_blosc(), np.empty(chunk, np.int16)

    def decode(sample: int) -> np.ndarray:
        for frame in frames[sample]:
            blosc.decompress(frame, target)
        return target.ravel()

    return decode


def last_chunk(frames: list[bytes]) -> np.ndarray:
    from numcodecs import Blosc

    return np.frombuffer(Blosc().decode(frames[-1]), np.int16).copy()


def peak_of_arrays(run: Run, device: torch.device) -> int:
    """The most memory that Python and numpy held for one run at once, results included."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
