"""Measures a case: are the results right, how long do they take, how much memory do they need. In this order.

Contenders take turns, so that a noisy machine disturbs all alike, in an order that changes (`order_of_turn`): what one
leaves in the caches and in the allocator, the next one finds. What is compared is the median of the ratios within a
turn. A contender with a wrong result gets no figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eokit.errors import ArgumentError

Results = Mapping[str, Tensor]
Run = Callable[[], Results]

CPU = torch.device("cpu")
FEWEST_TURNS = 3
LEAST_SECONDS = 5e-3
"""A shorter run is repeated within its turn until it takes so long: clocks and the scheduler are coarser."""


@dataclass(frozen=True)
class Work:
    """What the mathematics needs, whoever computes it: bytes read and written once, floating-point operations."""

    bytes: int | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Truth:
    """What right results are.

    exact: float64 of the reference. own: torch's own op in the dtype measured. Both hold what `part` takes out of a
    run's results. sums: the largest partial sum on the way to a result, of which one float32 rounding is granted.
    computed: the dtype of the products, where results are of a wider one: under autocast.
    """

    exact: Results
    own: Results
    part: Callable[[Results], Results] = lambda results: results
    sums: float = 0.0
    computed: torch.dtype | None = None


@dataclass(frozen=True)
class Prepared:
    """A case with its inputs: what each contender runs, and the truth for it."""

    runs: Mapping[str, Run]
    truth: Callable[[str], Truth]


@dataclass(frozen=True)
class Case:
    """at: what tells this case from others, in results and tables. contenders: the first is ours.

    setup makes the inputs; time and memory are measured on what it returns. left_out: why the case is not measured.
    peak: the bytes that one run needs beside them; torch's count unless told.
    """

    at: Mapping[str, Any]
    contenders: tuple[str, ...]
    setup: Callable[[], Prepared]
    work: Callable[[str], Work] = lambda contender: Work()
    left_out: str | None = None
    peak: Callable[[Run, torch.device], int] = lambda run, device: peak_extra_bytes(run, device)

    @property
    def ours(self) -> str:
        """The contender that the others are set against."""
        return self.contenders[0]


@dataclass(frozen=True)
class Plan:
    """turns: at most so many. seconds: after these, `FEWEST_TURNS` are enough. device: whose clock and memory count.

    strict: an error of ours ends the run; else it is told like that of any other.
    """

    turns: int = 15
    seconds: float = 8.0
    device: torch.device = CPU
    strict: bool = True


class Taken(NamedTuple):
    """Seconds of one run by the clock, and of the processor (None on a GPU)."""

    wall: float
    processor: float | None


def measure(case: Case, plan: Plan) -> dict[str, Any]:
    """One row of a report: {"at", "ours", "contenders": {name: figures, or {"why_not": a line}}}, ready for JSON."""
    row: dict[str, Any] = {"at": dict(case.at), "ours": case.ours}
    if case.left_out:
        return row | {"left_out": case.left_out, "contenders": {}}
    prepared = case.setup()
    required = case.ours if plan.strict else None
    told = {name: gate(run, prepared.truth(name), required=name == required) for name, run in prepared.runs.items()}
    right = {name: run for name, run in prepared.runs.items() if "why_not" not in told[name]}
    times = in_turns(right, plan)
    for name, run in right.items():
        extra = {"extra_bytes": case.peak(run, plan.device)}
        told[name] |= figures(times[name], times.get(case.ours), case.work(name)) | extra
    return row | {"contenders": told}


def gate(run: Run, truth: Truth, *, required: bool) -> dict[str, Any]:
    """{"error": by result} if all are right, else {"why_not", "wrong"}; what is `required` has to run, too."""
    try:
        results = truth.part(run())
    except (
        RuntimeError,
        ArgumentError,
    ) as refusal:  # a backend that does not take the shape or dtype, or has not enough memory
        if required:
            raise
        return {"why_not": f"does not run: {str(refusal).strip().splitlines()[0][:160]}", "wrong": False}
    errors = {}
    for name, exact in truth.exact.items():
        error, limit = distance(results[name], exact), error_limit(truth.own[name], exact, truth)
        if not error <= limit:  # NaN is wrong, too
            return {"why_not": f"wrong: {name} is off by {error:.2g}, limit {limit:.2g}; not measured", "wrong": True}
        errors[name] = error
    return {"error": errors}


def distance(x: Tensor, exact: Tensor) -> float:
    """Largest absolute difference; infinite for another shape."""
    if x.shape != exact.shape:
        return float("inf")
    return (
        (x.detach().to("cpu", torch.float64) - exact.to("cpu", torch.float64)).abs().max().item() if x.numel() else 0.0
    )


def error_limit(own: Tensor, exact: Tensor, truth: Truth) -> float:
    """Twice the error of torch's own op in its dtype plus four roundings of the largest value; 0 for whole numbers.

    Four, as torch's own may happen to be exact where another order of the same operations is not; of `truth.sums` one.
    Never more than half the digits of the dtype: torch's own would be wrong, too.
    """
    if not own.is_floating_point() or not exact.numel():
        return 0.0
    epsilon, largest = torch.finfo(truth.computed or own.dtype).eps, exact.abs().max().item()
    rounding = 4 * epsilon * largest + torch.finfo(torch.float32).eps * truth.sums
    return min(2 * distance(own, exact) + rounding, epsilon**0.5 * largest)


def make_run(function: Callable[..., Tensor], leaves: Mapping[str, Tensor], grad: Tensor | None) -> Run:
    """Calls `function` with `leaves` by name: {"out"}, and {"grad_<leaf>"} where a `grad` comes in."""
    given = {name: x.detach().requires_grad_(grad is not None) for name, x in leaves.items()}

    def forward() -> Results:
        with torch.no_grad():
            return {"out": function(**given)}

    def both() -> Results:
        out = function(**given)
        grads = torch.autograd.grad(out, list(given.values()), grad)
        return {"out": out.detach()} | {f"grad_{name}": x for name, x in zip(given, grads, strict=True)}

    return forward if grad is None else both


def passes(backward: bool | None) -> tuple[bool, ...]:
    """Whether to measure with a backward: both unless told."""
    return (False, True) if backward is None else (backward,)


PASSES = {False: "forward", True: "forward + backward"}


def in_turns(runs: Mapping[str, Run], plan: Plan) -> dict[str, list[Taken]]:
    """What every contender took in every turn."""
    clock = cuda_clock if plan.device.type == "cuda" else cpu_clock
    repeats = {name: repeats_for(clock(run, 1).wall) for name, run in runs.items()}  # this is the warm-up as well
    names = list(runs)
    times: dict[str, list[Taken]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in range(plan.turns):
        if turn >= FEWEST_TURNS and time.perf_counter() - started > plan.seconds:
            break
        for place in order_of_turn(turn, len(names)):
            times[names[place]].append(clock(runs[names[place]], repeats[names[place]]))
    return times


def order_of_turn(turn: int, count: int) -> list[int]:
    """Williams' design: in 2 `count` turns everyone runs as often at every place, and behind every other within a turn.

    E. J. Williams, Experimental designs balanced for the estimation of residual effects of treatments, 1949.
    """
    zigzag = [(k + 1) // 2 if k % 2 else -(k // 2) for k in range(count)]
    order = [(turn + step) % count for step in zigzag]
    return order[::-1] if turn // max(count, 1) % 2 else order


def repeats_for(seconds: float) -> int:
    """How often a run of `seconds` is repeated within one turn."""
    return int(min(max(LEAST_SECONDS / max(seconds, 1e-7), 1), 100))


def cpu_clock(run: Run, repeats: int) -> Taken:
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    return Taken((time.perf_counter() - wall) / repeats, (time.process_time() - processor) / repeats)


def cuda_clock(run: Run, repeats: int) -> Taken:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    for _ in range(repeats):
        run()
    after.record()
    torch.cuda.synchronize()
    return Taken(before.elapsed_time(after) / 1e3 / repeats, None)


def figures(times: list[Taken], ours: list[Taken] | None, work: Work) -> dict[str, Any]:
    """Medians and quartiles; `times_ours`: how many times as long as ours, within a turn."""
    wall = np.array([one.wall for one in times])
    low, median, high = np.quantile(wall, (0.25, 0.5, 0.75))
    told: dict[str, Any] = {"ms": 1e3 * median, "ms_quartiles": [1e3 * low, 1e3 * high], "turns": len(times)}
    if times[0].processor is not None:
        told["processor_ms"] = 1e3 * np.median([one.processor for one in times])
    if ours is not None:
        ratios = wall / np.array([one.wall for one in ours])
        told["times_ours"] = np.median(ratios)
        told["times_ours_quartiles"] = list(np.quantile(ratios, (0.25, 0.75)))
    if work.bytes:
        told["gb_per_s"] = work.bytes / median / 1e9
    if work.flops:
        told |= {"flops": work.flops, "gflop_per_s": work.flops / median / 1e9}
    return rounded(told)


def rounded(value: Any) -> Any:
    """The same with plain floats of five digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float | np.floating) else value


def peak_extra_bytes(run: Run, device: torch.device) -> int:
    """The most memory that torch held for one run at once, results included, beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler tells on stderr that it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results = run()
    del results
    events = [one for one in profile.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = np.cumsum([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())] or [0])
    return int(max(held.max(), 0))
