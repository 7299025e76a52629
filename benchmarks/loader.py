"""How fast a store is read and written, beside zarr-python and beside the decoder alone.

    python benchmarks/loader.py --patches 8

Synthetic patches (T = 61, 10 bands, 128 x 128 px, smooth fields and noise like reflectance x 10000), one core, files in
the page cache. In every round each contender reads the same patch, one after the other; the medians of their times and
of the ratios within a round are given. `without_native` is the same reader with numcodecs for decoder, as it works
where eokit was not compiled; `numcodecs` is that decoder alone, on the same chunks, already in memory: no reader that
uses it can be faster. Both seconds of the clock and of the processor are measured: on a machine that does other things
too only the latter mean something.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
from machine import machine

DATES, BANDS, SIZE = 61, 10, 128
CHOSEN = 16
"""Random dates of a patch in the second measurement."""

TARGETS = {"read_gb_per_s": 1.5, "dates_ratio_to_zarr": 5.0, "write_mb_per_s": 100.0}


@click.command(help=__doc__)
@click.option("--patches", default=8, show_default=True)
@click.option("--rounds", default=25, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Processes that write the store.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/loader.json"))
def main(patches: int, rounds: int, workers: int, out: Path) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="eokit-loader-") as temporary:
        source = make_source(Path(temporary), patches)
        written = {layout: write(source, Path(temporary), layout, workers) for layout in ("default", "tile")}
        read = {layout: read_patches(Path(temporary) / layout, patches, rounds) for layout in written}
        dates = read_dates(Path(temporary) / "default", patches, rounds)
    result = {
        "patch": {"dates": DATES, "bands": BANDS, "size": SIZE, "input": "synthetic"},
        "write": written,
        "read": read,
        f"read_{CHOSEN}_random_dates": dates,
        "targets": TARGETS,
        "load_before": round(load, 1),
        "machine": machine("numpy", "zarr", "numcodecs"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=2))


class Files:
    """A source of one .npy file a sample, read through a memory map as a format does it."""

    def __init__(self, folder: Path, patches: int) -> None:
        from eokit.data.sensors import get_sensor
        from eokit.data.writer import Entry, ModalitySpec, StoreSpec

        bands = get_sensor("sentinel-2").band_sets[BANDS]
        modality = ModalitySpec("s2", "sentinel-2", bands, (BANDS, SIZE, SIZE))
        self.spec = StoreSpec("benchmark", "Synthetic reflectances", "CC0", "", True, (modality,))
        days = {"s2": np.arange(DATES, dtype=np.int32) * 5 + 17_800}
        self.entries = [Entry(str(number), 1, days) for number in range(patches)]
        self.folder = folder

    def read(self, entry: Any, modality: str) -> np.ndarray:
        return np.load(self.folder / f"{entry.id}.npy", mmap_mode="r")

    def read_labels(self, entry: Any) -> dict[str, np.ndarray]:
        return {}

    def input_bytes(self, entry: Any) -> int:
        return (self.folder / f"{entry.id}.npy").stat().st_size


def make_source(folder: Path, patches: int) -> Files:
    """`patches` files of reflectance x 10000: eight smooth fields mixed by date and band, and noise of 25."""
    for number in range(patches):
        rng = np.random.default_rng(number)
        fields = np.stack([smooth(rng) for _ in range(8)])
        weights = rng.uniform(0, 160, (DATES, BANDS, 8))
        level = rng.uniform(300, 3500, (DATES, BANDS, 1, 1))
        values = level + np.einsum("tck,khw->tchw", weights, fields) + rng.normal(0, 25, (DATES, BANDS, SIZE, SIZE))
        np.save(folder / f"{number}.npy", values.clip(0, 16_000).astype(np.int16))
    return Files(folder, patches)


def smooth(rng: np.random.Generator) -> np.ndarray:
    """A field (H, W) of mean 0 and deviation 1 that varies over about 20 pixels."""
    y, x = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * np.exp(-700 * (x**2 + y**2))
    field = np.fft.ifft2(spectrum).real
    return (field - field.mean()) / field.std()


def write(source: Files, folder: Path, layout: str, workers: int) -> dict[str, float]:
    """Write the store; MB of input a second of the clock, and of the processor summed over processes."""
    from eokit.data.writer import WriteOptions, write_store

    options = WriteOptions(layout=layout, workers=workers, quiet=True)  # type: ignore[arg-type]
    before = np.array([time.perf_counter(), sum(os.times()[:4])])
    written = write_store(source, folder / layout, options)
    wall, cpu = np.array([time.perf_counter(), sum(os.times()[:4])]) - before
    megabytes = written.input_bytes / 1e6
    return {
        "input_mb": round(megabytes, 1),
        "ratio": round(written.input_bytes / written.stored_bytes, 2),
        "workers": workers,
        "mb_per_s": round(megabytes / wall, 1),
        "mb_per_cpu_s": round(megabytes / cpu, 1),
    }


def read_patches(path: Path, patches: int, rounds: int) -> dict[str, Any]:
    """Whole patches: eokit with its own decoder and with that of numcodecs, zarr-python, numcodecs alone."""
    import zarr

    from eokit.data.store import Store

    store, reference = Store.open(path), zarr.open_group(str(path), mode="r")["s2/data"]
    starts = [int(store._offset("s2", sample)[0]) for sample in range(patches)]
    frames = [compressed_chunks(store, sample) for sample in range(patches)]
    contenders = {
        "eokit": lambda sample: store.read("s2", sample),
        "without_native": lambda sample: read_without_native(store, sample),
        "zarr": lambda sample: reference[starts[sample] : starts[sample] + DATES],
        "numcodecs": decoder(frames, store._pixels["s2"]._chunk),
    }
    np.testing.assert_array_equal(contenders["eokit"](1 % patches), contenders["zarr"](1 % patches))
    return summary(alternate(contenders, patches, rounds), DATES * BANDS * SIZE * SIZE * 2)


def read_dates(path: Path, patches: int, rounds: int) -> dict[str, Any]:
    """`CHOSEN` random dates of a patch: eokit, zarr-python's orthogonal selection, zarr-python choosing from all."""
    import zarr

    from eokit.data.store import Store

    store, reference = Store.open(path), zarr.open_group(str(path), mode="r")["s2/data"]
    starts = [int(store._offset("s2", sample)[0]) for sample in range(patches)]
    rng = np.random.default_rng(0)
    picks = [np.sort(rng.choice(DATES, CHOSEN, replace=False)) for _ in range(patches)]
    contenders = {
        "eokit": lambda sample: store.read("s2", sample, picks[sample]),
        "without_native": lambda sample: read_without_native(store, sample, picks[sample]),
        "zarr": lambda sample: reference.oindex[starts[sample] + picks[sample]],
        "zarr_all_then_choose": lambda sample: reference[starts[sample] : starts[sample] + DATES][picks[sample]],
    }
    for name in list(contenders)[1:]:
        np.testing.assert_array_equal(contenders["eokit"](0), contenders[name](0))
    return summary(alternate(contenders, patches, rounds), CHOSEN * BANDS * SIZE * SIZE * 2)


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


def decoder(frames: list[list[bytes]], chunk: list[int]) -> Callable[[int], None]:
    """Decodes all chunks of a patch, one after the other, into the same memory."""
    from eokit.data.shard_reader import contextual_blosc

    blosc, target = contextual_blosc(), np.empty(chunk, np.int16)

    def decode(sample: int) -> None:
        for frame in frames[sample]:
            blosc.decompress(frame, target)

    return decode


def alternate(contenders: dict[str, Callable[[int], Any]], patches: int, rounds: int) -> dict[str, np.ndarray]:
    """Contender -> (rounds, 2) seconds of the clock and of the processor; every round takes the next patch."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(-2, rounds):
        for name, contender in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            contender(turn % patches)
            if turn >= 0:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(seconds) for name, seconds in times.items()}


def summary(times: dict[str, np.ndarray], size: int) -> dict[str, Any]:
    """Medians in ms and GB/s of decoded pixels, the best round, and how many times as long as eokit each takes."""
    facts = {}
    for name, seconds in times.items():
        wall, cpu = np.median(seconds, axis=0)
        facts[name] = {
            "ms": round(wall * 1e3, 2),
            "cpu_ms": round(cpu * 1e3, 2),
            "gb_per_s": round(size / wall / 1e9, 3),
            "gb_per_cpu_s": round(size / cpu / 1e9, 3),
            "best_gb_per_s": round(size / seconds[:, 0].min() / 1e9, 3),
            "times_eokit": round(statistics.median(seconds[:, 1] / times["eokit"][:, 1]), 2),
        }
    return facts


if __name__ == "__main__":
    main()
