"""Everything that a GPU is needed for, in one go and within minutes: build, check, tune, time, test.

    python benchmarks/gpu.py [--out DIR] [--minutes 8] [--dry-run]

Needs torch, triton, numpy, pytest and a checkout, nothing installed. Stages run in the order of their worth, each in
a process of its own, so that a kernel that crashes or hangs costs its stage and nothing else; results are written
after every case. --dry-run walks through all of them on a CPU with tiny sizes: it proves the script, not the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # stand in for what an installation does, with this checkout
    sys.path[:] = [str(ROOT), *(one for one in sys.path if Path(one or ".").resolve() != ROOT / "benchmarks")]
    _package = ModuleType("eokit_bench")
    _package.__path__ = [str(ROOT / "benchmarks")]
    sys.modules["eokit_bench"] = _package

import torch  # noqa: E402

from eokit.ops import backends, use_backend  # noqa: E402
from eokit.ops.attention.table import Row  # noqa: E402
from eokit_bench import registry, report  # noqa: E402
from eokit_bench.attention import Shape, make_case, ours, set_up  # noqa: E402
from eokit_bench.baselines import Attend, baselines, flex  # noqa: E402
from eokit_bench.machine import device_name, machine  # noqa: E402
from eokit_bench.measure import Case, Plan, gate  # noqa: E402

KILLED_AFTER = 20
"""Seconds that a stage may take beyond its share before it is ended."""
CHECKED = ("triton", "cuda")


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
        return Plan(turns=3 if self.dry else 9, seconds=1.0, device=self.device)

    @property
    def kernels(self) -> list[str]:
        """The backends of ours that are here and did not crash when they were checked."""
        there = {one.name for one in backends() if one.available}
        stages = self.read("stages")
        ended = {name: stages.get(f"check-{name}", {}).get("returned", 0) for name in CHECKED}
        names = [self.stand_in(name) for name in CHECKED if ended[name] in (0, None)]  # None: it ran out of time
        return [name for name in names if name in there]

    def stand_in(self, name: str) -> str:
        """The backend itself; in a rehearsal one that a CPU has."""
        return {"triton": "cpu", "cuda": "reference"}[name] if self.dry else name

    def contender(self, backend: str | None) -> Attend:
        return guarded(partial(ours, backend=backend))

    def size(self, axis: str, length: int, dim: int) -> tuple[int, int, int, int, int]:
        """(B, T, N, H, D) of about 2^26 elements, or of a few."""
        across = 2 if self.dry else max(2**26 // (length * 8 * dim), 1)
        return (1, length, across, 2 if self.dry else 8, dim) if axis == "temporal" else (across, 1, length, 8, dim)

    def read(self, name: str) -> dict[str, Any]:
        file = self.out / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def save(self, name: str, value: Any) -> bool:
        """Write `value` to NAME.json; whether there is time to go on."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        return time.time() < self.until


def build(run: Run) -> None:
    """The extension beside its sources, for this GPU alone."""
    started, environment = time.time(), dict(os.environ)
    if not run.dry:
        major, minor = torch.cuda.get_device_capability()
        environment |= {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    command = [sys.executable, "setup.py", "build_ext", "--help" if run.dry else "--inplace"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    told: dict[str, Any] = {"seconds": round(time.time() - started, 1), "returned": done.returncode}
    report_file = (
        ROOT / "eokit" / "_build_report.json"
    )  # setup.py goes on without what does not build, and says so there
    told["built"] = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else None
    run.save("build", told | {"log": (done.stdout + done.stderr)[-20_000:]})


def check(run: Run, wanted: str) -> None:
    """The gate on odd cases; what does not pass is told with its error. Later stages leave out what crashes here."""
    name, there = run.stand_in(wanted), {one.name: one for one in backends()}
    told: dict[str, Any] = {"machine": machine("torch"), "backend": name, "reason": there[name].reason}
    lengths, widths = ((3, 17), (8,)) if run.dry else ((17, 144), (64, 44, 128))
    for dim, dtype in product(widths, ("bfloat16", "float16", "float32") if there[name].available else ()):
        found = []
        for length, rate in product(lengths, (0.0, 0.5)):
            shape = Shape("temporal", (2, length, 3, 2, dim), getattr(torch, dtype), rate, True)
            prepared = set_up(shape, run.device, {name: run.contender(name)})
            outcome = gate(prepared.runs[name], prepared.truth(name), required=False)
            found.append({"T": length, "mask_rate": rate} | outcome)
            told[f"{dtype} D={dim}"] = found
            if not run.save(f"check-{wanted}", told):
                return
    run.save(f"check-{wanted}", told)


def guarded(attend: Attend) -> Attend:
    """Whatever a compiler of kernels raises as a RuntimeError, which costs the contender and not the case."""

    def run(*arguments: Any, **named: Any) -> torch.Tensor:
        try:
            return attend(*arguments, **named)
        except Exception as error:
            raise RuntimeError(f"{type(error).__name__}: {str(error).strip() or 'no message'}") from error

    return run


def tune(run: Run) -> None:
    """The fastest backend by axis, length, width, dtype and mask, forward + backward: rows of attention/table.py.

    Triton tunes its own tiles at the first call of each and keeps them on disk.
    """
    lengths, widths = ((3, 5), (8,)) if run.dry else ((16, 36, 61, 144, 256, 512), (64, 32, 128))
    grid = product(widths, ("bfloat16", "float16"), ("temporal", "spatial"), (0.0, 0.3), lengths)
    shapes = [
        Shape(axis, run.size(axis, length, dim), getattr(torch, dtype), rate, True)
        for dim, dtype, axis, rate, length in grid
    ]
    names = ["sdpa", *run.kernels]
    cases = [case_of(run, shape, {name: run.contender(name) for name in names}) for shape in shapes]

    def keep(measured: report.Report) -> bool:
        run.save("table", table_of(measured))
        return run.save("tune", measured)

    report.run_cases("tune", cases, {"backends": names}, run.plan, say, keep)


def table_of(measured: report.Report) -> dict[str, list[list[Any]]]:
    """Name of the device -> rows for `MEASURED`, of cases in which something was right."""
    rows = []
    for case in measured["rows"]:
        at, times = case["at"], {name: one["ms"] for name, one in case["contenders"].items() if "ms" in one}
        if times:
            length = at["T"] if at["axis"] == "temporal" else at["N"]
            rows.append(
                Row(
                    at["axis"],
                    length,
                    at["D"],
                    at["dtype"],
                    at["mask_rate"] > 0,
                    min(times, key=lambda one: times[one]),
                )
            )
    return {measured["machine"]["device"]: [list(row) for row in rows]}


def compare(
    run: Run, name: str, rate: float, lengths: Iterable[int], dtypes: Iterable[str], chosen: dict[str, Attend]
) -> None:
    """Forward, and forward + backward, of `chosen` at each length: NAME.json."""
    cases = []
    for dtype, axis, length, backward in product(dtypes, ("temporal", "spatial"), lengths, (False, True)):
        shape = Shape(axis, run.size(axis, length, 8 if run.dry else 64), getattr(torch, dtype), rate, backward)
        cases.append(case_of(run, shape, chosen))
    report.run_cases(name, cases, {"mask_rate": rate}, run.plan, say, partial(run.save, name))


def case_of(run: Run, shape: Shape, chosen: dict[str, Attend]) -> Case:
    """The case of `eokit bench attention` with other contenders."""
    case = make_case(shape, run.device)
    return replace(case, contenders=tuple(chosen), setup=partial(set_up, shape, run.device, chosen))


def our_contenders(run: Run) -> dict[str, Attend]:
    """What users get, which always runs and is what the others are set against, and every kernel of ours."""
    return {"eokit": run.contender(None)} | {f"eokit {name}": run.contender(name) for name in run.kernels}


def contenders(run: Run) -> dict[str, Attend]:
    """Ours and torch's, but for flex_attention, which compiles for each shape."""
    theirs = baselines(run.device)
    wanted = {name: attend for name, attend in theirs.items() if name not in ("flex_attention", "SDPA math")}
    return our_contenders(run) | wanted


def attend(run: Run) -> None:
    lengths = (3,) if run.dry else (24, 36, 61, 144, 256, 512)
    compare(run, "attention", 0.0, lengths, ("bfloat16", "float16", "float32"), contenders(run))


def attend_masked(run: Run) -> None:
    compare(run, "attention-masked", 0.3, (3,) if run.dry else (36, 144, 256), ("bfloat16",), contenders(run))


def attend_flex(run: Run) -> None:
    chosen = our_contenders(run) | {"flex_attention": guarded(partial(flex, compiled=not run.dry))}
    compare(run, "attention-flex", 0.0, (3,) if run.dry else (36, 144), ("bfloat16",), chosen)


def rows(run: Run) -> None:
    """Tokens, pooling, the row MLP and the losses, each on the kernels it has: NAME-BACKEND.json."""
    device, dtypes = str(run.device), ("float32",) if run.dry else ("bfloat16", "float32")
    few = {"device": device, "dtype": dtypes}
    settings: dict[str, Any] = {
        "tokens": registry.TokensSettings(
            **few, **({"positions": 9, "width": 8, "batch": 2} if run.dry else {"batch": 256})
        ),
        "pool": registry.PoolSettings(
            **few, **({"seq_len": (5,), "positions": 4} if run.dry else {"positions": 16_384})
        ),
        "mlp": registry.MlpSettings(**few, **({"rows": 7} if run.dry else {"rows": 2**18})),
        "losses": registry.LossesSettings(
            device=device, **({"rows": 9, "prototypes": 8} if run.dry else {"rows": 6144})
        ),
    }
    for name, backend in product(settings, run.kernels):
        if backend == "cuda" and name != "tokens":
            continue  # csrc/cuda has no kernels for it
        with use_backend(backend):
            cases = registry.load(name).cases(settings[name])
            file = f"{name}-{backend}"
            try:
                report.run_cases(name, cases, {"backend": backend}, run.plan, say, partial(run.save, file))
            except Exception as error:  # a kernel that fails must not cost the other ops
                say(f"{file}: {type(error).__name__}: {error}")
                run.save(f"{file}-failed", {"why": f"{type(error).__name__}: {error}"[:2000]})


def tests(run: Run) -> None:
    """The quick tests of tests/gpu, as many as the time allows; in a rehearsal one of them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["--maxfail=20", "--confcutdir=tests/gpu", "tests/gpu"] + (["-k", "losses"] if run.dry else [])
    environment = os.environ | ({"EOKIT_GPU_TESTS_ON": "cpu"} if run.dry else {})
    log, seconds = run.out / "tests.log", max(run.until - time.time(), 1)
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=file, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    lines = log.read_text(encoding="utf-8").splitlines()
    run.save("tests", {"returned": code, "end": lines[-40:]})


STAGES: dict[str, tuple[Callable[[Run], None], float]] = {
    "build": (build, 0.3),
    "check-triton": (partial(check, wanted="triton"), 0.2),
    "check-cuda": (partial(check, wanted="cuda"), 0.15),
    "attention": (attend, 0.4),
    "tune": (tune, 0.4),
    "rows": (rows, 0.5),
    "masked": (attend_masked, 0.5),
    "flex": (attend_flex, 0.5),
    "tests": (tests, 1.0),
}
"""What is run, in order of worth, and which share of the time that is left then it may take."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build, check, tune, time and test the GPU kernels.")
    parser.add_argument("--out", type=Path, help="folder of the results, benchmarks/results/<device> unless told")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU with tiny sizes")
    parser.add_argument("--stage", choices=STAGES, help="this one alone, here; the script calls itself with it")
    given = parser.parse_args(arguments)
    if not given.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry-run walks through everything without one")
    run = Run(Path(), time.time() + 60 * given.minutes, given.dry_run)
    run = replace(run, out=(given.out or ROOT / "benchmarks/results" / device_name(run.device)).resolve())
    if given.stage:
        STAGES[given.stage][0](run)
        return 0
    if given.dry_run and given.out is None:
        parser.error("--dry-run needs --out DIR: its figures must not stand among measured ones")
    run.save("stages", {})
    failed = [name for name in STAGES if not ended_well(name, run)]
    say(f"results in {run.out}" + (f"; not completed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def ended_well(name: str, run: Run) -> bool:
    """Run a stage in a process of its own and keep what became of it in stages.json."""
    left, started = run.until - time.time(), time.time()
    seconds, code = left * STAGES[name][1], None
    if left > 0:
        say(f"{name}: {seconds:.0f} s of {left:.0f}")
        command = [sys.executable, str(Path(__file__).resolve()), "--stage", name, "--out", str(run.out)]
        command += ["--minutes", f"{seconds / 60:.3f}"] + (["--dry-run"] if run.dry else [])
        try:
            code = subprocess.run(command, timeout=seconds + KILLED_AFTER).returncode
        except subprocess.TimeoutExpired:
            say(f"{name}: ended after {seconds + KILLED_AFTER:.0f} s")
    run.save("stages", run.read("stages") | {name: {"returned": code, "seconds": round(time.time() - started, 1)}})
    return code == 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
