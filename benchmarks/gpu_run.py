"""A run of benchmarks/gpu.py: where it writes, how long it may take, how much data it moves, what it compares."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eokit.files import write_text
from eokit.ops import backends
from eokit_bench import report
from eokit_bench.attention import Shape, make_case, ours, set_up
from eokit_bench.baselines import Attend, baselines
from eokit_bench.machine import memory_bytes
from eokit_bench.measure import Case, Plan

CHECKED = ("triton", "cuda")
PROBLEMS = 3
"""Exit status of a stage that came to its end and found something wrong; another one but 0 is a crash."""
BYTES_PER_ELEMENT = 256
"""Of q: forward and backward in float32 of a contender that copies everything and holds scores of short sequences."""


@dataclass(frozen=True)
class Run:
    """One run of the script: where results go, until when, and whether it is a rehearsal on a CPU."""

    out: Path
    until: float
    dry: bool

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def plan(self) -> Plan:
        return Plan(turns=3 if self.dry else 9, seconds=1.0, device=self.device, strict=False)

    @property
    def kernels(self) -> list[str]:
        """The backends of ours that are here and did not crash when they were checked."""
        there = {one.name for one in backends() if one.available}
        stages = self.read("stages")
        ended = {name: stages.get(f"check-{name}", {}).get("returned", 0) for name in CHECKED}
        names = [self.stand_in(name) for name in CHECKED if ended[name] in (0, PROBLEMS, None)]  # None: out of time
        return [name for name in names if name in there]

    def stand_in(self, name: str) -> str:
        """The backend itself; in a rehearsal one that a CPU has."""
        return {"triton": "cpu", "cuda": "reference"}[name] if self.dry else name

    def kernels_for(self, dtype: str) -> list[str]:
        return [name for name in self.kernels if takes(name, dtype)]

    def has_right_bias_gradient(self, kernel: str, dtype: str, dim: int) -> bool:
        """Whether its check compared it in the dtype, up to heads of `dim` features or more, and found all right."""
        (wanted,) = (name for name in CHECKED if self.stand_in(name) == kernel)
        cases = self.read(f"check-{wanted}").get("cases", [])
        biased = [one for one in cases if one["bias"] and one["dtype"] == dtype]
        return any(one["D"] >= dim for one in biased) and not any("why_not" in one for one in biased)

    def contender(self, backend: str | None) -> Attend:
        return guarded(partial(ours, backend=backend))

    def our_contenders(self, dtype: str) -> dict[str, Attend]:
        """What users get, which always runs and is what the others are set against, and every kernel of ours."""
        return {"eokit": self.contender(None)} | {
            f"eokit {name}": self.contender(name) for name in self.kernels_for(dtype)
        }

    def contenders(self, dtype: str) -> dict[str, Attend]:
        """Ours and torch's, but for flex_attention, which compiles for each shape."""
        left_out = ("flex_attention", "SDPA math")
        theirs = {name: attend for name, attend in baselines(self.device).items() if name not in left_out}
        return self.our_contenders(dtype) | theirs

    @property
    def elements(self) -> int:
        """Of q: 2^28, which take 0.6 ms to read and write at 3.3 TB/s, many times a launch; fewer in less memory."""
        return 2 ** min(28, int(math.log2(memory_bytes(self.device) / BYTES_PER_ELEMENT)))

    def size(self, axis: str, length: int, dim: int) -> tuple[int, int, int, int, int]:
        """(B, T, N, H, D) of about `elements`, or of a few.

        No more than 4,096 positions of 8 heads, or 2^15 images: torch's kernels end at 65,535 of either.
        """
        if self.dry:
            return (1, length, 2, 2, dim) if axis == "temporal" else (2, 1, length, 8, dim)
        across = max(self.elements // (length * 8 * dim), 1)
        if axis == "temporal":
            positions = min(across, 4096)
            return across // positions, length, positions, 8, dim
        return min(across, 2**15), 1, length, 8, dim

    def case(self, shape: Shape, chosen: dict[str, Attend]) -> Case:
        """The case of `eokit bench attention` with other contenders."""
        case = make_case(shape, self.device)
        return replace(case, contenders=tuple(chosen), setup=partial(set_up, shape, self.device, chosen))

    def measure(self, name: str, cases: list[Case], settings: dict[str, Any], file: str | None = None) -> list[str]:
        """Measure the cases that there is time for into FILE.json, NAME.json unless told; what is wrong with ours."""
        measured = report.run_cases(name, cases, settings, self.plan, say, partial(self.save, file or name))
        return self.told(name, measured, cases)

    def told(self, name: str, measured: report.Report, cases: list[Case]) -> list[str]:
        """What is wrong with ours among the measured cases; says how many there was time for."""
        if len(measured["rows"]) < len(cases):
            say(f"{name}: time for {len(measured['rows'])} of {len(cases)} cases")
        return problems_of(measured["rows"])

    def read(self, name: str) -> dict[str, Any]:
        file = self.out / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def save(self, name: str, value: Any) -> bool:
        """Write `value` to NAME.json, whole or not at all; whether there is time to go on."""
        write_text(self.out / f"{name}.json", json.dumps(value, indent=1) + "\n")
        return time.time() < self.until


def takes(kernel: str, dtype: str) -> bool:
    """Whether a backend of ours has kernels for attention in the dtype; tensor cores take no float32."""
    return kernel != "cuda" or dtype != "float32"


def guarded(attend: Attend) -> Attend:
    """Whatever a compiler of kernels raises as a RuntimeError, which costs the contender and not the case."""

    def run(*arguments: Any, **named: Any) -> Tensor:
        try:
            return attend(*arguments, **named)
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {str(error).strip() or 'no message'}") from error

    return run


def problems_of(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every case in which one of ours was wrong or did not run; torch's own may."""
    return [
        f"{report.case_name(row['at'])}: {name} {told['why_not']}"
        for row in rows
        for name, told in row["contenders"].items()
        if "why_not" in told and name.startswith("eokit")
    ]


def say(line: str) -> None:
    print(line, flush=True)
