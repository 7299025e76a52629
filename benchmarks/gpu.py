"""Everything that a GPU is needed for, in one go and within minutes: build, check, tune, time, test.

    python benchmarks/gpu.py [--out DIR] [--minutes 8] [--dry-run]

Needs torch, triton, numpy, pytest and a checkout, nothing installed. Stages run in the order of their worth, each in
a process of its own, so that a kernel that crashes or hangs costs its stage and nothing else; results are written
after every case. The exit status is 1, and the last lines say why, if a library did not build, a result was wrong, a
test failed or a stage did not end. --dry-run walks through all of them on a CPU with tiny sizes: it proves the script,
not the kernels.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # stand in for what an installation does, with this checkout
    sys.path[:] = [str(ROOT), *(one for one in sys.path if Path(one or ".").resolve() != ROOT / "benchmarks")]
    _package = ModuleType("eokit_bench")
    _package.__path__ = [str(ROOT / "benchmarks")]
    sys.modules["eokit_bench"] = _package

import torch  # noqa: E402

from eokit_bench.gpu_run import PROBLEMS, Run, say  # noqa: E402
from eokit_bench.gpu_stages import STAGES  # noqa: E402
from eokit_bench.machine import device_name  # noqa: E402

KILLED_AFTER = 20
"""Seconds that a stage may take beyond its share before it is ended."""


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
    if given.dry_run and given.out is None:
        parser.error("--dry-run needs --out DIR: its figures must not stand among measured ones")
    return only(given.stage, run) if given.stage else everything(run)


def only(stage: str, run: Run) -> int:
    """One stage in this process; what it found wrong is left in stages.json."""
    problems = STAGES[stage][0](run)
    run.save("stages", run.read("stages") | {stage: {"problems": problems}})
    return PROBLEMS if problems else 0


def everything(run: Run) -> int:
    """All stages, and at the end what was wrong in which."""
    if run.dry:
        say("rehearsal on a CPU with tiny sizes: no GPU is used")
    run.save("stages", {})
    problems = [f"{name}: {line}" for name in STAGES for line in outcome(name, run)]
    say(f"results in {run.out}" + ("; no GPU was used, they say nothing of one" if run.dry else ""))
    for line in problems:
        say(line)
    say(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0


def outcome(name: str, run: Run) -> list[str]:
    """Run a stage in a process of its own, keep what became of it in stages.json, and tell what was wrong."""
    left, started = run.until - time.time(), time.time()
    seconds = left * STAGES[name][1]
    if left <= 0:
        return kept(name, run, None, started, ["not begun, no time was left"])
    say(f"{name}: limit {seconds:.0f} s")
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", name, "--out", str(run.out)]
    command += ["--minutes", f"{seconds / 60:.3f}"] + (["--dry-run"] if run.dry else [])
    code = run_limited(command, seconds + KILLED_AFTER)
    problems = run.read("stages").get(name, {}).get("problems", [])
    if code is None:
        problems = [f"ended after {seconds + KILLED_AFTER:.0f} s, before it was done"]
    elif code not in (0, PROBLEMS):
        problems = [f"crashed with exit status {code}"]
    return kept(name, run, code, started, problems)


def kept(name: str, run: Run, code: int | None, started: float, problems: list[str]) -> list[str]:
    told = {"returned": code, "seconds": round(time.time() - started, 1), "problems": problems}
    run.save("stages", run.read("stages") | {name: told})
    return problems


def run_limited(command: list[str], seconds: float) -> int | None:
    """The exit status of a command, None if it did not end in time; whatever it started ends with it."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
