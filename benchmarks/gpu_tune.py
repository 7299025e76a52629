"""The stage of benchmarks/gpu.py that measures which backend of attention is the fastest: ops/attention/table.py."""

from __future__ import annotations

from itertools import product
from operator import mul
from typing import Any

import torch

from eokit.ops.attention.table import ADDED, Row
from eokit_bench.attention import Shape
from eokit_bench.gpu_run import Run, say
from eokit_bench.measure import PASSES
from eokit_bench.report import Report, run_cases

OPTIONS: dict[str, tuple[Any, ...]] = {
    "length": (144, 36, 61, 256, 16, 512),
    "dim": (64, 32, 128),
    "dtype": ("bfloat16", "float32", "float16"),
    "axis": ("temporal", "spatial"),
    "added": ADDED,
    "gradients": (True, False),
}
"""What the fastest backend may depend on, the value of most interest first."""
FEW = OPTIONS | {"length": (3, 5), "dim": (8,), "dtype": ("bfloat16",)}
MASKED = 0.3


def cells(options: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination, the most decisive first: in order of the sum of the places of its values.

    A run that is cut short has measured the common cases before any corner of the rare ones. The place of a length
    counts half, since a table with gaps between lengths answers for them by the next shorter one.
    """
    weights = [0.5 if name == "length" else 1.0 for name in options]
    places = product(*(range(len(values)) for values in options.values()))
    return [
        {name: values[place] for (name, values), place in zip(options.items(), cell, strict=True)}
        for cell in sorted(places, key=lambda cell: sum(map(mul, cell, weights)))
    ]


def shape_of(run: Run, cell: dict[str, Any]) -> Shape:
    size, dtype = run.size(cell["axis"], cell["length"], cell["dim"]), getattr(torch, cell["dtype"])
    rate = MASKED if cell["added"] == "mask" else 0.0
    return Shape(cell["axis"], size, dtype, rate, cell["gradients"], cell["added"] == "bias")


def kernels_for(run: Run, cell: dict[str, Any]) -> list[str]:
    """Those that may be timed in the cell: its gate sees few sequences, and so no gradient of a bias."""
    found = run.kernels_for(cell["dtype"])
    if cell["added"] == "bias" and cell["gradients"]:
        found = [name for name in found if run.has_right_bias_gradient(name, cell["dtype"], cell["dim"])]
    return found


def tune(run: Run) -> list[str]:
    """The fastest backend in every cell that there is time for: rows of attention/table.py.

    Triton tunes its own tiles at the first call of each and keeps them on disk.
    """
    cases = []
    for cell in cells(FEW if run.dry else OPTIONS):
        ours = {f"eokit {name}": run.contender(name) for name in kernels_for(run, cell)}
        cases.append(run.case(shape_of(run, cell), {"sdpa": run.contender("sdpa")} | ours))

    def keep(measured: Report) -> bool:
        run.save("table", table_of(measured))
        return run.save("tune", measured)

    measured = run_cases("tune", cases, {"mask_rate": MASKED}, run.plan, say, keep)
    return run.told("tune", measured, cases)


def table_of(measured: Report) -> dict[str, list[list[Any]]]:
    """Name of the device -> rows for `MEASURED`, of cases in which something was right."""
    rows = []
    for case in measured["rows"]:
        times = {name: one["ms"] for name, one in case["contenders"].items() if "ms" in one}
        if times:
            rows.append(list(row_of(case["at"], min(times, key=lambda one: times[one]).removeprefix("eokit "))))
    return {measured["machine"]["device"]: rows}


def row_of(at: dict[str, Any], backend: str) -> Row:
    """The row of the table for a case of this description."""
    length = at["T"] if at["axis"] == "temporal" else at["N"]
    added = "bias" if at.get("bias") else "mask" if at["mask_rate"] else "nothing"
    return Row(at["axis"], length, at["D"], at["dtype"], added, at["pass"] == PASSES[True], backend)
