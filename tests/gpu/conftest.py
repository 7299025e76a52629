"""Tests that need a GPU; without one they are skipped. They import torch, triton and pytest alone:

    python -m pytest -o addopts= -p no:cacheprovider --confcutdir=tests/gpu tests/gpu   (-m "not slow": quick)

EOKIT_GPU_TESTS_ON=cpu rehearses them on a CPU, in small: the code of the tests, and with TRITON_INTERPRET=1 what the
Triton kernels compute. It says nothing of a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from tests.ops.conftest import poisoned  # noqa: F401  (a fixture)

REHEARSAL = os.environ.get("EOKIT_GPU_TESTS_ON") == "cpu"
DEVICE = "cpu" if REHEARSAL else "cuda"


@pytest.fixture(autouse=True)
def on_the_gpu():
    """Tensors without a device are made on the GPU, so that inputs are those of the tests of a CPU."""
    if not REHEARSAL and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device; EOKIT_GPU_TESTS_ON=cpu rehearses these tests without one")
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)
