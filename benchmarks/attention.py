"""ops.attention against scaled_dot_product_attention, for temporal attention on series (B, T, N, H, D) in memory.

    python benchmarks/attention.py --threads 1 --repeats 15

Contenders: ours; `zero-copy`, SDPA on x.view(B, T, N * H, D).transpose(1, 2); `permute`, SDPA on permuted copies, as
most code does it. All take the series as stored and give the result stored the same way. They run in turns, so that a
noisy machine disturbs all alike; the figures are medians of wall time and of processor time, and medians of the ratios
within a turn. No figure is taken before the results and gradients agree with float64. Values are random.
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
from machine import machine
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eokit.ops import attention, backends

SHAPES = (
    (4, 12, 256, 6, 64),
    (4, 36, 256, 3, 32),
    (1, 36, 1024, 6, 64),
    (1, 61, 1024, 6, 64),
    (1, 144, 256, 6, 64),
)
Contender = Callable[[Tensor, Tensor, Tensor], Tensor]
Times = dict[str, list[tuple[float, float]]]


@click.command(help=__doc__)
@click.option("--shape", "shapes", type=str, multiple=True, help="B,T,N,H,D; several times for several.")
@click.option("--repeats", default=15, show_default=True, help="Measured turns, after two that are not.")
@click.option("--threads", default=1, show_default=True, help="0: as many as torch takes.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu/attention.json"))
def main(shapes: tuple[str, ...], repeats: int, threads: int, out: Path) -> None:
    if threads:
        torch.set_num_threads(threads)
    chosen = [tuple(map(int, shape.split(","))) for shape in shapes] or SHAPES
    rows = [row for shape in chosen for row in measure(shape, repeats)]
    result = {
        "contenders": list(CONTENDERS),
        "repeats": repeats,
        "machine": machine("torch") | {"threads": torch.get_num_threads(), "backend": compiled()},
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(f"{out}: {len(rows)} rows")


def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)


def zero_copy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, dates, positions, heads, dim = q.shape
    q, k, v = (x.view(batch, dates, positions * heads, dim).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, dates, positions, heads, dim)


def permute(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, dates, positions, heads, dim = q.shape
    q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(batch * positions, heads, dates, dim) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v).view(batch, positions, heads, dates, dim)
    return out.permute(0, 3, 1, 2, 4).contiguous()


CONTENDERS: dict[str, Contender] = {"ours": ours, "zero-copy": zero_copy, "permute": permute}


def measure(shape: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """One row for forward and one for forward + backward."""
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(shape) for _ in range(4))
    errors = check(q, k, v, grad)

    def forward(run: Contender) -> None:
        with torch.no_grad():
            run(q, k, v)

    def both(run: Contender) -> None:
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        torch.autograd.grad(run(*leaves), leaves, grad)

    batch, dates, positions, heads, dim = shape
    product = 2 * batch * positions * heads * dates * dates * dim  # operations of one of the matrix products
    rows = []
    for name, step, products in (("forward", forward, 2), ("forward + backward", both, 7)):
        times = in_turns(step, repeats)
        row = {"shape": list(shape), "dtype": "float32", "pass": name, "error_vs_float64": errors}
        rows.append(row | summary(times, products * product))
        click.echo(one_line(rows[-1]))
    return rows


def check(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> dict[str, float]:
    """The largest error of each contender, output and gradients, on some positions; raises if ours is not right."""
    small = [x[:1, :, :8] for x in (q, k, v, grad)]

    def results(run: Contender, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).contiguous().requires_grad_() for x in small[:3]]
        out = run(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, small[3].to(dtype))]

    exact = results(permute, torch.float64)
    errors = {
        name: max((x - y).abs().max().item() for x, y in zip(results(run, torch.float32), exact, strict=True))
        for name, run in CONTENDERS.items()
    }
    limit = 2 * max(errors["zero-copy"], errors["permute"]) + 1e-6
    if errors["ours"] > limit:
        raise click.ClickException(
            f"error {errors['ours']:.1e} on {tuple(q.shape)}, limit {limit:.1e}; nothing measured"
        )
    return errors


def in_turns(step: Callable[[Contender], None], repeats: int) -> Times:
    """(wall, processor) seconds of every contender in every turn; each turn starts with another one."""
    times: Times = {name: [] for name in CONTENDERS}
    names = list(CONTENDERS)
    for turn in range(repeats + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            step(CONTENDERS[name])
            taken = (time.perf_counter() - wall, time.process_time() - cpu)
            if turn >= 2:
                times[name].append(taken)
    return times


def summary(times: Times, operations: int) -> dict[str, Any]:
    clocks = {}
    for index, clock in enumerate(("wall", "processor")):
        taken = {name: [pair[index] for pair in pairs] for name, pairs in times.items()}
        ratios = {
            name: statistics.median(other / own for other, own in zip(values, taken["ours"], strict=True))
            for name, values in taken.items()
            if name != "ours"
        }
        clocks[clock] = {
            "ms": {name: round(1e3 * statistics.median(values), 3) for name, values in taken.items()},
            "times_faster_than": {name: round(ratio, 3) for name, ratio in ratios.items()},
            "gflop_per_s": round(operations / statistics.median(taken["ours"]) / 1e9, 1),
        }
    return clocks


def one_line(row: dict[str, Any]) -> str:
    wall, cpu = row["wall"], row["processor"]
    ratios = ", ".join(
        f"{ratio:.2f} ({cpu['times_faster_than'][name]:.2f}) x {name}"
        for name, ratio in wall["times_faster_than"].items()
    )
    shape = ",".join(map(str, row["shape"]))
    return f"{shape:16} {row['pass']:18} {wall['ms']['ours']:8.2f} ms, {ratios}, {cpu['gflop_per_s']:.0f} GFLOP/s"


def compiled() -> str:
    """Which compiled kernels are measured, or why there are none."""
    return next(one.reason for one in backends() if one.name == "cpu")


if __name__ == "__main__":
    main()
