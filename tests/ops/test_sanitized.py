"""The C++ kernels read and write nothing out of bounds, whatever the shape."""

import subprocess
from pathlib import Path

import pytest

from tests.sanitizers import CSRC, build_sanitized


@pytest.mark.slow
def test_no_kernel_leaves_its_memory(tmp_path):
    sources = [Path(__file__).with_name("fuzz_kernels.cpp"), *sorted((CSRC / "cpu").glob("kernels_*.cpp"))]
    program = build_sanitized(sources, tmp_path)
    done = subprocess.run([program, "100"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "every access in bounds" in done.stdout
