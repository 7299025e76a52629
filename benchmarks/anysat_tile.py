"""Time and memory of AnySat on a whole PASTIS-HD tile: 1,280 m of S2 (T 61), S1 (T 140) and SPOT, dense.

    python benchmarks/anysat_tile.py

`eokit bench model anysat` compares crops of it with plain torch, which does not fit into memory here. The process runs
the tile once, so that its highest resident memory is that of weights, input, work and result. Values are random.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import torch

from eokit.files import write_text
from eokit.memory import peak_bytes
from eokit_bench.anysat import SCENES, flops, make, random_scene
from eokit_bench.machine import machine

MOST_GIB = 6.0
"""Of resident memory that a tile is to be encoded in."""


@click.command(help=__doc__)
@click.option("--preset", default="base", show_default=True)
@click.option("--metres", default=1280, show_default=True, help="Edge of the tile.")
@click.option("--threads", default=0, show_default=True, help="0: as many as torch takes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/anysat-tile.json"))
def main(preset: str, metres: int, threads: int, out: Path) -> None:
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    scene = SCENES["pastis"]
    encoder, observed = make(preset, scene), random_scene(scene, scene.dates, metres, torch.device("cpu"))
    before = peak_bytes()
    started = time.perf_counter()
    with torch.inference_mode():
        features = encoder.encode(observed, scene.patch_metres, scene.dense)
    seconds = time.perf_counter() - started
    if features.dense is None or not features.dense.isfinite().all():
        raise SystemExit("the dense map is not there, or not finite")
    result = {
        "model": f"anysat {preset}",
        "tile": {"metres": metres, "dates": dict(scene.dates), "patch_metres": scene.patch_metres},
        "dense": list(features.dense.shape),
        "seconds": round(seconds, 1),
        "gflop_per_s": round(flops(encoder, scene, scene.dates, metres) / seconds / 1e9, 1),
        "peak_gib": round(peak_bytes() / 2**30, 2),
        "peak_gib_before": round(before / 2**30, 2),
        "target_gib": MOST_GIB,
        "machine": machine("torch") | {"threads": torch.get_num_threads()},
    }
    write_text(out, json.dumps(result, indent=2) + "\n")
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
