"""The tests that need a GPU, rehearsed on a CPU: their own code runs and what it expects holds of torch's ops.

The kernels are left out: tests/ops/test_triton.py has them in Triton's interpreter, which takes minutes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tests_of_a_gpu_pass_on_a_cpu():
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "EOKIT_BACKEND")}
    environment |= {"EOKIT_GPU_TESTS_ON": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--confcutdir=tests/gpu", "tests/gpu"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.MULTILINE), done.stdout[-2000:]
