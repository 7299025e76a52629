"""How long a pretraining step of CropSTS waits for its data: the share of the run's time, by loader processes.

    python benchmarks/training.py --steps 32

The season is synthetic (patches of 128 px, in the page cache); settings are those of `eokit pretrain --preset tiny`.
The share is what every run logs: the time in which the loop waits for a batch over its time, both from the first batch
on, so that the start of the loader's processes is left out. Samples a second are over the whole run, start included.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from eokit_bench.machine import machine

TARGET = 0.10
"""Share of a step that may pass waiting for data."""


@click.command(help=__doc__)
@click.option("--preset", default="tiny", show_default=True)
@click.option("--patches", default=40, show_default=True)
@click.option("--steps", default=32, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option(
    "--workers", default=(0, 1), multiple=True, show_default=True, help="Loader processes; several to compare."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/training.json"))
def main(preset: str, patches: int, steps: int, batch_size: int, workers: tuple[int, ...], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="eokit-training-") as temporary:
        store = season(Path(temporary), patches)
        plan = {"preset": preset, "steps": steps, "batch_size": batch_size}
        rows = [measure(store, Path(temporary, f"run-{number}"), number, plan) for number in workers]
    about = {"input": "synthetic", "patches": patches, "target_wait": TARGET, "machine": machine("torch", "numpy")}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(plan | {"rows": rows} | about, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(rows, indent=2))


def season(folder: Path, patches: int) -> Path:
    """A prepared synthetic store."""
    from eokit.data.formats import get_format
    from eokit.data.synthetic import write_synthetic_pastis
    from eokit.data.writer import WriteOptions, write_store

    write_synthetic_pastis(folder / "season", patches=patches, modalities=("s2",))
    write_store(get_format("pastis").open_source(folder / "season"), folder / "season.zarr", WriteOptions(quiet=True))
    return folder / "season.zarr"


def measure(store: Path, run: Path, workers: int, plan: dict[str, Any]) -> dict[str, Any]:
    """One run: samples a second and the share of it that went into waiting."""
    from eokit.training.pretrain import PretrainSettings, pretrain
    from eokit.training.settings import LoopSettings

    loop = LoopSettings(steps=plan["steps"], batch_size=plan["batch_size"], workers=workers, device="cpu")
    fitted = pretrain(PretrainSettings(data=store, out=run, preset=plan["preset"], loop=loop, quiet=True)).fit
    per_second = plan["steps"] * plan["batch_size"] / fitted.seconds
    within = fitted.data_wait < TARGET
    told = {
        "samples_per_second": round(per_second, 2),
        "data_wait": round(fitted.data_wait, 4),
        "within_target": within,
    }
    return {"workers": workers, "seconds": round(fitted.seconds, 1)} | told


if __name__ == "__main__":
    main()
