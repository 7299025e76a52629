"""Memory and speed of a map of a scene far larger than memory should be: 10,000 x 10,000 px.

    python benchmarks/predict.py --rows 2 --preset tiny
    python benchmarks/predict.py --rows 0 --model pixel

The scene is synthetic: one tiled GeoTIFF of ten bands, linked under several dates. With `--model cropsts` the weights
are random and `--rows` rows of tiles are drawn; `--model pixel` has no encoder and draws them all (`--rows 0`), which
is what tiling, blending and writing cost. The map is drawn in a process of its own, whose peak resident memory counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from eokit.data.sensors import get_sensor
from eokit_bench.machine import machine

LIMIT_GIB = 2.0
"""Resident memory that a map may take, whatever the size of its scene."""
BANDS = get_sensor("sentinel-2").band_sets[10]


@click.command(help=__doc__)
@click.option("--edge", default=10_000, show_default=True, help="Pixels along the scene.")
@click.option("--dates", default=12, show_default=True)
@click.option("--rows", default=2, show_default=True, help="Rows of tiles to draw; 0: all.")
@click.option("--model", type=click.Choice(["cropsts", "pixel"]), default="cropsts", show_default=True)
@click.option("--preset", default="tiny", show_default=True)
@click.option("--batch-size", default=0, show_default=True, help="0: automatic.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keep the scene there; default: a temporary folder.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/predict.json"))
def main(edge: int, dates: int, folder: Path | None, out: Path, **plan: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="eokit-predict-") as temporary:
        scene = make_scene((folder or Path(temporary)) / f"scene-{edge}-{dates}", edge, dates)
        told = measure(scene, Path(temporary), plan)
    result = told | plan | {"edge": edge, "dates": dates, "input": "synthetic", "limit_gib": LIMIT_GIB}
    result |= {"within_limit": told["peak_gib"] < LIMIT_GIB, "machine": machine("torch", "rasterio")}
    name = f"{plan['model']}-{plan['preset']}" if plan["model"] == "cropsts" else plan["model"]
    results = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results | {f"{name}, {dates} dates": result}, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=2))


def make_scene(folder: Path, edge: int, dates: int) -> Path:
    """One synthetic GeoTIFF of `edge` pixels, linked under `dates` names; made once."""
    import numpy as np
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window

    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    fields = rng.integers(200, 4000, (len(BANDS), 512 // 16, 512 // 16))
    block = (fields.repeat(16, 1).repeat(16, 2) + rng.integers(0, 4, (len(BANDS), 512, 512))).astype(np.int16)
    grid = {"crs": "EPSG:32631", "transform": Affine(10, 0, 600_000, 0, -10, 5_000_000)}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "LZW", "bigtiff": "IF_SAFER"}
    first = folder / "20200105.tif"
    shape = {"count": len(BANDS), "height": edge, "width": edge, "dtype": "int16"}
    with rasterio.open(first, "w", driver="GTiff", **shape, **grid, **layout) as target:
        target.descriptions = BANDS
        for top in range(0, edge, 512):
            for left in range(0, edge, 512):
                height, width = min(512, edge - top), min(512, edge - left)
                target.write(block[:, :height, :width], window=Window(left, top, width, height))
    for number in range(1, dates):
        month, day = 1 + number % 12, 5 + number // 12
        os.link(first, folder / f"2020{month:02}{day:02}.tif")
    return folder


def measure(scene: Path, temporary: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Draw in a fresh process and read what it says of itself."""
    arguments = json.dumps({"scene": str(scene), "out": str(temporary / "map.tif")} | plan)
    done = subprocess.run([sys.executable, __file__, "--child", arguments], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def draw_and_tell(plan: dict[str, Any]) -> dict[str, Any]:
    import resource

    from eokit.mapping.predict import PredictSettings, predict_with

    predictor = make_predictor(plan["model"], plan["preset"])
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = PredictSettings(
        source=Path(plan["scene"]), out=Path(plan["out"]), batch_size=plan["batch_size"], limit=plan["rows"] or None
    )
    (result,) = predict_with(predictor, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "peak_gib": round(peak / 2**20, 3),
        "before_gib": round(started / 2**20, 3),
        "seconds": result.seconds,
        "tiles": result.tiles,
        "pixels_per_second": result.pixels_per_second,
    }


def make_predictor(model: str, preset: str) -> Any:
    """A model of twenty classes with random weights."""
    import torch

    from eokit.data.preprocessing import Input, Preprocessing
    from eokit.mapping.inference import Predictor
    from eokit.models.registry import build_encoder
    from eokit.tasks.segmentation import SegmentationModel
    from eokit.tasks.task import Task

    torch.manual_seed(0)
    classes = tuple(f"class {number}" for number in range(20))
    preprocessing = Preprocessing({"s2": Input("sentinel-2", BANDS, (2000.0,) * 10, (1000.0,) * 10)})
    device = torch.device("cpu")
    if model == "pixel":
        weights = torch.randn(len(classes), len(BANDS))

        def by_pixel(batch: Any) -> Any:
            series = batch.series["s2"]
            return torch.einsum("kc,bchw->bkhw", weights, series.values.mean(1)), series.valid.any(1)

        return Predictor(by_pixel, preprocessing, classes, 4, "benchmark", device)
    segmenter = SegmentationModel(build_encoder("cropsts", preset), Task(classes)).eval()
    return Predictor(
        segmenter.logits_and_seen, preprocessing, classes, segmenter.encoder.patch_size, "benchmark", device
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(draw_and_tell(json.loads(sys.argv[2]))))
    else:
        main()
