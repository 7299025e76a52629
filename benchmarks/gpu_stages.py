"""What benchmarks/gpu.py does on a GPU, stage by stage. Each returns what is wrong, a line each; [] if all is well."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch

from eokit.ops import backends, use_backend
from eokit_bench import registry
from eokit_bench.attention import Shape, set_up
from eokit_bench.baselines import flex
from eokit_bench.gpu_run import Run, guarded, say, takes
from eokit_bench.gpu_tune import tune
from eokit_bench.machine import machine
from eokit_bench.measure import gate

ROOT = Path(__file__).resolve().parents[1]
BUILD_REPORT = ROOT / "eokit" / "_build_report.json"
NEEDED = ("_C", "_C_cuda")
DTYPES = ("bfloat16", "float16", "float32")


def build(run: Run) -> list[str]:
    """The extension beside its sources, for this GPU alone."""
    started, environment, lacking = time.time(), dict(os.environ), unmet()
    for line in lacking:
        say(line)
    if not run.dry:
        major, minor = torch.cuda.get_device_capability()
        environment |= {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
        BUILD_REPORT.unlink(missing_ok=True)
    command = [sys.executable, "setup.py", "build_ext", "--help" if run.dry else "--inplace"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    told: dict[str, Any] = {"seconds": round(time.time() - started, 1), "returned": done.returncode, "lacking": lacking}
    # setup.py goes on without what does not build, and says so there
    told["built"] = json.loads(BUILD_REPORT.read_text(encoding="utf-8")) if BUILD_REPORT.is_file() else {}
    run.save("build", told | {"log": (done.stdout + done.stderr)[-20_000:]})
    return [] if run.dry else unbuilt(told)


def unbuilt(told: dict[str, Any]) -> list[str]:
    """The libraries that are not there after a build, with what may be the reason."""
    nothing = f"setup.py ended with {told['returned']} before it said why; see build.json"
    missing = {name: told["built"].get(name, nothing) for name in NEEDED if told["built"].get(name) != "built"}
    return [f"{name} is not built: {why}" for name, why in missing.items()] + (told["lacking"] if missing else [])


def unmet() -> list[str]:
    """What pyproject.toml asks of a build and this machine lacks, with the command that gets it."""
    from packaging.requirements import Requirement  # pytest brings it

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = []
    for one in map(Requirement, settings["build-system"]["requires"]):
        try:
            there = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            if shutil.which(one.name):  # ninja need not come from pip
                continue
            there = "missing"
        if there == "missing" or not one.specifier.contains(there, prereleases=True):
            found.append(f"{one.name} is {there}, a build needs {one}: pip install '{one}'")
    return found


def check(run: Run, wanted: str) -> list[str]:
    """The gate on odd cases; what does not pass is told with its error. Later stages leave out what crashes here.

    They are small enough to compare the gradient of a bias, a sum over all sequences, which large ones are not.
    """
    name, there = run.stand_in(wanted), {one.name: one for one in backends()}
    told: dict[str, Any] = {"machine": machine("torch"), "backend": name, "reason": there[name].reason}
    run.save(f"check-{wanted}", told)
    if not there[name].available:
        return [] if run.dry else [f"{name} cannot be checked: {there[name].reason}"]
    lengths, widths = ((3, 17), (8,)) if run.dry else ((17, 144, 257), (64, 44, 128))
    plain, biased = product(lengths, (0.0, 0.5), (False,)), ((lengths[0], 0.5, True), (lengths[1], 0.0, True))
    wrong, cases = [], (*plain, *biased)
    found = told["cases"] = []
    for dim, dtype, (length, rate, bias) in product(widths, (one for one in DTYPES if takes(name, one)), cases):
        shape = Shape("temporal", (2, length, 3, 2, dim), getattr(torch, dtype), rate, True, bias)
        prepared = set_up(shape, run.device, {name: run.contender(name)})
        outcome = gate(prepared.runs[name], prepared.truth(name), required=False)
        found.append({"dtype": dtype, "D": dim, "T": length, "mask_rate": rate, "bias": bias} | outcome)
        case = f"{dtype} D={dim} T={length} mask_rate={rate}" + (" with a bias" if bias else "")
        if "why_not" in outcome:
            wrong.append(f"{name} {case}: {outcome['why_not']}")
        if not run.save(f"check-{wanted}", told):
            return [*wrong, f"{name}: no time for all cases, the last was {case}"]
    return wrong


def attend(run: Run) -> list[str]:
    lengths = (3,) if run.dry else (144, 36, 61, 256, 24, 512)
    return compare(run, "attention", 0.0, lengths, DTYPES)


def attend_masked(run: Run) -> list[str]:
    return compare(run, "attention-masked", 0.3, (3,) if run.dry else (144, 36, 256), ("bfloat16",))


def compare(run: Run, name: str, rate: float, lengths: Iterable[int], dtypes: Iterable[str]) -> list[str]:
    """Forward, and forward + backward, of ours and torch's at each length: NAME.json."""
    cases = []
    for dtype, length, axis, backward in product(dtypes, lengths, ("temporal", "spatial"), (False, True)):
        shape = Shape(axis, run.size(axis, length, 8 if run.dry else 64), getattr(torch, dtype), rate, backward)
        cases.append(run.case(shape, run.contenders(dtype)))
    return run.measure(name, cases, {"mask_rate": rate})


def attend_flex(run: Run) -> list[str]:
    """flex_attention, which is compiled for each shape, beside ours."""
    chosen = run.our_contenders("bfloat16") | {"flex_attention": guarded(partial(flex, compiled=not run.dry))}
    cases = []
    for length, axis, backward in product((3,) if run.dry else (144, 36), ("temporal", "spatial"), (False, True)):
        size = run.size(axis, length, 8 if run.dry else 64)
        cases.append(run.case(Shape(axis, size, torch.bfloat16, 0.0, backward), chosen))
    return run.measure("attention-flex", cases, {"mask_rate": 0.0})


def rows(run: Run) -> list[str]:
    """Tokens, pooling, the row MLP and the losses, each on the kernels it has: NAME-BACKEND.json.

    The losses in torch as well, tile by tile: what their kernels replace. csrc/cuda has kernels for tokens alone.
    """
    wrong, given = [], row_settings(run)
    ways = [way for way in product(given, run.kernels) if way[1] != "cuda" or way[0] == "tokens"]
    for name, backend in [*ways, ("losses", "sdpa")]:
        file = f"{name}-{backend}"
        with use_backend(backend):
            try:
                cases = registry.load(name).cases(given[name])
                wrong += [f"{file} {line}" for line in run.measure(name, cases, {"backend": backend}, file)]
            except Exception as error:  # a kernel that fails must not cost the other ops
                wrong.append(f"{file}: {type(error).__name__}: {error}")
                run.save(f"{file}-failed", {"why": wrong[-1][:2000]})
    return wrong


def row_settings(run: Run) -> dict[str, Any]:
    """Settings by benchmark: tokens and series of about twice `elements`, of which a case moves a part; or of few."""
    few: dict[str, Any] = {"device": str(run.device), "dtype": ("float32",) if run.dry else ("bfloat16", "float32")}
    if run.dry:
        return {
            "tokens": registry.TokensSettings(**few, positions=9, width=8, batch=2),
            "pool": registry.PoolSettings(**few, seq_len=(5,), positions=4),
            "mlp": registry.MlpSettings(**few, rows=7),
            "losses": registry.LossesSettings(device=few["device"], rows=9, prototypes=8),
        }
    tokens, pool = registry.TokensSettings(**few), registry.PoolSettings(**few)
    return {
        "tokens": replace(tokens, batch=2 * run.elements // (tokens.positions * tokens.width)),
        "pool": replace(pool, positions=2 * run.elements // (pool.seq_len[0] * pool.width)),
        "mlp": registry.MlpSettings(**few, rows=2**18),
        "losses": registry.LossesSettings(device=few["device"], rows=6144),
    }


FAILED = re.compile(r"^(\S+::.*?) (?:FAILED|ERROR)\b", re.MULTILINE)


def tests(run: Run, folder: str) -> list[str]:
    """The quick tests in `folder`, as many as the time allows; in a rehearsal one of them. -v names one as it fails."""
    command = [sys.executable, "-m", "pytest", "-v", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["--maxfail=20", f"--confcutdir={folder}", folder] + (["-k", "losses"] if run.dry else [])
    environment = os.environ | ({"EOKIT_GPU_TESTS_ON": "cpu"} if run.dry else {})
    log, seconds = run.out / "tests.log", max(run.until - time.time(), 1)
    with log.open("w", encoding="utf-8") as file:
        options: dict[str, Any] = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": file}
        try:
            code = subprocess.run(command, timeout=seconds, **options).returncode
        except subprocess.TimeoutExpired:
            say("tests: time for some of them only")
            code = None
    text = log.read_text(encoding="utf-8")
    failed, end = FAILED.findall(text), text.splitlines()[-40:]
    run.save("tests", {"returned": code, "failed": failed, "end": end})
    if code in (0, None) or failed:
        return [f"{name} failed" for name in failed]
    return [f"pytest ended with {code}: {end[-1] if end else 'nothing was printed'}"]


STAGES: dict[str, tuple[Callable[[Run], list[str]], float]] = {
    "build": (build, 0.5),
    "check-triton": (partial(check, wanted="triton"), 0.2),
    "check-cuda": (partial(check, wanted="cuda"), 0.15),
    "attention": (attend, 0.4),
    "tune": (tune, 0.4),
    "rows": (rows, 0.5),
    "masked": (attend_masked, 0.5),
    "flex": (attend_flex, 0.5),
    "tests": (partial(tests, folder="tests/gpu"), 1.0),
}
"""What is run, in order of worth, and which share of the time that is left then it may take."""
