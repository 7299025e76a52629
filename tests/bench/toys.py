"""Cases without any mathematics worth the name, and reports as a run would write them."""

from __future__ import annotations

import torch

from eokit_bench.measure import Case, Prepared, Truth, Work
from eokit_bench.report import noisy


def toy_case(ours=lambda x: 2 * x, other=lambda x: x + x, **at):
    """Twice a number; `ours` and `other` compute it."""
    x = torch.linspace(-1, 1, 1001)

    def set_up():
        runs = {"ours": lambda: {"out": ours(x)}, "other": lambda: {"out": other(x)}}
        return Prepared(runs, lambda name: Truth({"out": 2 * x.double()}, {"out": 2 * x}))

    return Case({"T": 12, **at}, ("ours", "other"), set_up, lambda name: Work(8 * 1001, 1001))


def toy_report(ms=1.0, spread=0.1, at=(), other=0.5, other_spread=0.0, **machine):
    """A report of one case, in which ours takes `ms` and the other, in every turn, `other` times that."""
    told = {
        name: {
            "error": {"out": 0.0},
            "ms": factor * ms,
            "ms_quartiles": [factor * (ms - spread), factor * (ms + spread)],
            "turns": 3,
            "times_ours": factor,
            "times_ours_quartiles": [factor * (1 - beside), factor * (1 + beside)],
            "extra_bytes": 2**20,
        }
        for name, factor, beside in (("ours", 1.0, 0.0), ("other", other, other_spread))
    }
    facts = {
        "processor": "toy",
        "device": "cpu",
        "threads": 1,
        "load": 0.0,
        "freed_memory": "kept",
        "torch": "2",
        "kernels": "none",
    }
    roof = {"copy_gb_per_s": 10.0, "gemm_gflop_per_s": {"float32": 100.0}}
    row = {"at": {"T": 12, "pass": "forward", **dict(at)}, "ours": "ours", "contenders": told}
    report = {
        "schema": 1,
        "benchmark": "toy",
        "machine": facts | machine,
        "roofline": roof,
        "rows": [row],
        "loses": [],
        "wrong": [],
    }
    return report | {"noisy": noisy(report)}
