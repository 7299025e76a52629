"""How far a CropSTS forward is from the matrix products of its linear layers alone.

    python benchmarks/model.py --preset parcel --size 128 --dates 61

Forward and products run in turns on the same threads; medians are compared. The products are `torch.mm` on contiguous
data into a buffer that is there already: no bias, no norm, no activation, no attention. Values are random. Processor
time is measured beside wall time: on a machine that others use too, compare that, with one thread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

import eokit.nn.blocks
import eokit.ops
from eokit.data.sample import Batch, Series, Where
from eokit.models.registry import build_encoder
from eokit_bench.machine import machine

TARGET = 2.0
"""The forward should take less than this many times its products."""


@click.command(help=__doc__)
@click.option("--preset", default="parcel", show_default=True)
@click.option("--size", default=128, show_default=True, help="Side of the patch in pixels.")
@click.option("--dates", default=61, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="Measured turns, after one that is not.")
@click.option("--threads", default=0, show_default=True, help="0: as many as torch takes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/model.json"))
def main(preset: str, size: int, dates: int, repeats: int, threads: int, out: Path) -> None:
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoder: Any = build_encoder("cropsts", preset).eval()
    batch = random_batch(encoder.config.modalities["s2"], size, dates)
    with torch.inference_mode():
        products = Products(encoder, batch)
        attention = Stopwatch(eokit.nn.blocks.attention)
        eokit.nn.blocks.attention = attention
        turns = [one_turn(encoder, batch, products, attention, number) for number in range(repeats + 1)][1:]
    result = summary(turns) | {
        "model": f"cropsts {preset}",
        "input": {"dates": dates, "size": size, "tokens": dates * (size // encoder.patch_size) ** 2},
        "gflop": encoder.flops(1, dates, size, size) / 1e9,
        "machine": machine("torch") | {"threads": torch.get_num_threads()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(result, indent=2))


class Products:
    """The matrix products of all linear layers of one forward, in their order, on contiguous data."""

    def __init__(self, encoder: nn.Module, batch: Batch) -> None:
        self.shapes: list[tuple[int, int, int]] = []  # rows, inputs, outputs
        layers = [one for one in encoder.modules() if isinstance(one, nn.Linear)]
        hooks = [one.register_forward_hook(self._note) for one in layers]
        encoder(batch)
        for hook in hooks:
            hook.remove()
        self.inputs = {(m, k): torch.randn(m, k) for m, k, _ in self.shapes}
        self.weights = [torch.randn(n, k) for _, k, n in self.shapes]
        self.outputs = {(m, n): torch.empty(m, n) for m, _, n in self.shapes}

    def _note(self, layer: nn.Linear, args: tuple[Tensor], out: Tensor) -> None:
        self.shapes.append((args[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    def run(self) -> None:
        for (m, k, n), weight in zip(self.shapes, self.weights, strict=True):
            torch.mm(self.inputs[m, k], weight.T, out=self.outputs[m, n])


class Spent:
    """Adds up the wall time and the processor time (of all threads) inside its `with` blocks."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> Spent:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()


class Stopwatch:
    """A function that adds up its own time."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.spent = function, Spent()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.spent:
            return self.function(*args, **kwargs)


def random_batch(bands: int, size: int, dates: int) -> Batch:
    """One series without clouds, a date every six days."""
    days = 17_800 + 6 * torch.arange(dates, dtype=torch.int32)[None]
    valid = torch.ones(1, dates, size, size, dtype=torch.bool)
    return Batch({"s2": Series(torch.randn(1, dates, bands, size, size), days, valid, "sentinel-2")}, (Where("a"),))


def one_turn(
    encoder: nn.Module, batch: Batch, products: Products, attention: Stopwatch, number: int
) -> dict[str, dict[str, float]]:
    """Seconds of the forward, of its attention and of the products, by clock."""
    attention.spent = Spent()
    with Spent() as forward:
        encoder(batch)
    with Spent() as product:
        products.run()
    click.echo(f"turn {number}: forward {forward.wall:.2f} s, products {product.wall:.2f} s", err=True)
    parts = {"forward": forward, "attention": attention.spent, "products": product}
    return {clock: {name: getattr(one, clock) for name, one in parts.items()} for clock in ("wall", "processor")}


def summary(turns: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    result: dict[str, Any] = {"target": TARGET, "turns": len(turns)}
    for clock in ("wall", "processor"):
        medians = {name: statistics.median(one[clock][name] for one in turns) for name in turns[0][clock]}
        result[f"{clock}_seconds"] = {name: round(value, 3) for name, value in medians.items()}
        result[f"forward_over_products_{clock}"] = round(medians["forward"] / medians["products"], 3)
    return result


if __name__ == "__main__":
    main()
