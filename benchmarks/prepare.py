"""How fast a tree of PASTIS-R becomes a store, in MB of input a second.

    python benchmarks/prepare.py --patches 32 --workers 2

The input is a synthetic season of full-size patches (128 x 128 px, 38 to 61 Sentinel-2 dates, two Sentinel-1 orbits),
so that it compresses like images and not like noise; it lies in the page cache. `check` opens the source and checks
every header, `read` reads and converts all pixels in one process, `prepare` is all of it down to the finished store.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from eokit_bench.machine import machine

TARGET_MB_PER_S = 100.0
"""Input to be prepared a second on two cores."""


@click.command(help=__doc__)
@click.option("--patches", default=32, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--layout", default="default", show_default=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where the input is made or found again; default: a temporary one.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/prepare.json"))
def main(patches: int, workers: int, repeats: int, layout: str, folder: Path | None, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="eokit-prepare-") as temporary:
        tree = season(folder or Path(temporary) / "PASTIS-R", patches, workers)
        result = measure(tree, Path(temporary) / "store.zarr", workers, repeats, layout)
    result |= {
        "patches": patches,
        "workers": workers,
        "layout": layout,
        "input": "synthetic",
        "machine": machine("numpy", "zarr", "numcodecs"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=2))


def season(tree: Path, patches: int, workers: int) -> Path:
    """The synthetic input at `tree`, made if it is not there."""
    from eokit.data.synthetic import write_synthetic_pastis

    return tree if tree.is_dir() else write_synthetic_pastis(tree, patches=patches, size=128, workers=workers)


def measure(tree: Path, dest: Path, workers: int, repeats: int, layout: str) -> dict[str, Any]:
    """Medians of `repeats` rounds, after one that is not counted and warms the page cache.

    A machine that does other things too shows in `load_before`; processor seconds (user and system, of all processes)
    do not depend on that, wall seconds do.
    """
    from eokit.data.formats import get_format
    from eokit.data.writer import WriteOptions, write_store

    load = os.getloadavg()[0]
    options = WriteOptions(workers=workers, layout=layout, quiet=True)  # type: ignore[arg-type]
    rounds = []
    for turn in range(repeats + 1):
        shutil.rmtree(dest, ignore_errors=True)
        marks = [clocks()]
        source = get_format("pastis").open_source(tree)
        marks.append(clocks())
        read_all(source)
        marks.append(clocks())
        written = write_store(source, dest, options)
        marks.append(clocks())
        check, read, write = ((after - before).tolist() for before, after in itertools.pairwise(marks))
        click.echo(f"turn {turn}: wall and processor seconds: check {check}, read {read}, write {write}", err=True)
        rounds.append((check, read, write))
    megabytes = written.input_bytes / 1e6
    check, read, write = np.median(rounds[1:], axis=0)
    wall, cpu = check + write
    return {
        "input_mb": round(megabytes, 1),
        "stored_mb": round(written.stored_bytes / 1e6, 1),
        "prepare": {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "mb_per_s": round(megabytes / wall, 1)},
        "check": {"seconds": round(check[0], 3)},
        "read": {"seconds": round(read[0], 3), "mb_per_cpu_s": round(megabytes / read[1], 1)},
        "mb_per_cpu_s": round(megabytes / cpu, 1),
        "target_mb_per_s": TARGET_MB_PER_S,
        "load_before": round(load, 1),
    }


def clocks() -> np.ndarray:
    """Wall seconds, and processor seconds of this process and the children that have ended."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def read_all(source: Any) -> None:
    """Every pixel and label of the source, converted, kept nowhere."""
    for entry in source.entries:
        for modality in source.spec.modalities:
            source.read(entry, modality.name)
        source.read_labels(entry)


if __name__ == "__main__":
    main()
