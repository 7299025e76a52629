"""The kernels under compute-sanitizer: no access out of bounds, no race for shared memory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.conftest import DEVICE, REHEARSAL
from tests.gpu.support import named
from tests.gpu.touch_kernels import SHAPES

SANITIZER = shutil.which("compute-sanitizer") or shutil.which(
    "compute-sanitizer", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin"
)
ROOT = Path(__file__).parents[2]


def touch(backend, *before):
    """Every tensor in memory of its own, so that the first byte past it is an error."""
    command = [*before, sys.executable, "-m", "tests.gpu.touch_kernels", backend, DEVICE]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=580)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZER is None, reason="no compute-sanitizer on the path")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("backend", [named("cuda"), named("triton")])
def test_the_kernels_stay_within_their_memory_and_do_not_race(backend, tool):
    if REHEARSAL or not torch.cuda.is_available():
        pytest.skip("watches kernels on a GPU alone")
    done = touch(backend, SANITIZER, "--tool", tool, "--error-exitcode", "9")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.count("touched") == 1


def test_what_the_sanitizer_watches_goes_over_the_keys_in_passes():
    """Eight warps hold dK and dV of 256 keys up to 64 features, of 128 beyond."""
    assert any(keys > 256 for _, keys, dim in SHAPES if dim <= 64)
    assert any(keys > 128 for _, keys, dim in SHAPES if dim > 64)


def test_what_the_sanitizer_watches_runs():
    done = touch("sdpa")
    assert done.stdout.strip() == "touched", done.stderr[-2000:]
