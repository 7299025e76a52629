"""What setup.py leaves when the compiled libraries cannot be built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The least of a checkout that setup.py works on."""
    for name in (
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "eokit/__init__.py",
        "cli/__init__.py",
        "benchmarks/__init__.py",
    ):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tmp_path / "checkout" / name)
    return tmp_path / "checkout"


@pytest.mark.parametrize("library", ["pybind11", "torch"])
def test_a_build_without_a_library_says_so_in_the_report(checkout, tmp_path, library):
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / f"{library}.py").write_text(f"raise ModuleNotFoundError('{library} is not there')")
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "blocked")}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = f"the build has no {library} ({library} is not there)"
    assert f"left out, {told}" in done.stderr
    report = json.loads((checkout / "built/eokit/_build_report.json").read_text())
    missing = {"torch": ("_C", "_native", "_C_cuda"), "pybind11": ("_native",)}[library]
    assert tuple(name for name, reason in report.items() if reason.startswith(told)) == missing


def test_cuda_kernels_that_are_demanded_are_not_left_out_in_silence(checkout):
    if torch.version.cuda:
        pytest.skip("this torch has CUDA")
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", "built"]
    environment = os.environ | {"EOKIT_WITH_CUDA": "1"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "EOKIT_WITH_CUDA=1, but the CUDA kernels are left out, the torch of the build has no CUDA" in done.stderr
