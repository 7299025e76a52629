"""exp2, exp and log of the CPU kernels are as exact as their comments say, in every instruction set of this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.sanitizers import CSRC


@pytest.mark.parametrize(
    ("vector", "header", "flags"),
    [
        ("VecPortable", "vec_portable.h", []),
        ("VecAvx2", "vec_avx2.h", ["-mavx2", "-mfma", "-mf16c", '-DNEEDS="avx2"']),
        ("VecAvx512", "vec_avx512.h", ["-mavx512f", "-mavx512dq", "-mavx2", "-mfma", "-mf16c", '-DNEEDS="avx512dq"']),
    ],
)
def test_functions_are_exact_to_a_few_roundings(tmp_path, vector, header, flags):
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler {compiler!r}; CXX=COMPILER names one")
    program, source = tmp_path / "errors", Path(__file__).with_name("function_errors.cpp")
    which = [f"-DVECTOR={vector}", f'-DVECTOR_HEADER="{CSRC / "cpu" / header}"']
    build = [compiler, "-std=c++20", "-O2", "-Wno-psabi", *which, *flags, source, "-o", program]
    built = subprocess.run(build, capture_output=True, text=True)
    if built.returncode and flags and "unrecognized" in built.stderr:  # another kind of processor
        pytest.skip(f"{compiler} does not know these instructions")
    assert built.returncode == 0, built.stderr[-4000:]
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip(f"this CPU has no {vector}")
    exp2, exp, log, special = map(float, done.stdout.split())
    rounding = 2.0**-24
    assert 0 < exp2 < 2 * rounding
    assert 0 < exp < 2.5 * rounding
    assert 0 < log < 2.5 * rounding
    assert special, "exp2 of 0, -inf, -1e30 or NaN"
