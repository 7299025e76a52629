"""C++ programs of the tests, built so that they stop at the first access out of bounds or undefined operation."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
SANITIZED = ("-std=c++20", "-O1", "-g", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_sanitized(sources: Sequence[Path], folder: Path) -> Path:
    """The program made of `sources`; skips the test where no compiler with sanitizers is there."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler {compiler!r}; CXX=COMPILER names one")
    (folder / "empty.cpp").write_text("int main() {}\n")
    probe = [compiler, *SANITIZED, str(folder / "empty.cpp"), "-o", str(folder / "empty")]
    tried = subprocess.run(probe, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"{compiler} has no sanitizers: {tried.stderr.splitlines()[-1]}")
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda one: _run([compiler, *SANITIZED, "-c", one[0], "-o", one[1]]), zip(sources, objects, strict=True)
            )
        )
    program = folder / sources[0].stem
    _run([compiler, *SANITIZED, *objects, "-o", program])
    return program


def _run(command: Sequence[str | Path]) -> None:
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
