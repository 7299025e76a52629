import os
import subprocess
import sys

import pytest
import torch

from eokit.ops import library

# Tests of the compiled kernels say so and are left out where they were not built.
compiled = pytest.mark.skipif(not library.COMPILED, reason="the compiled library is not there")


@pytest.fixture
def poisoned():
    """Fills everything that torch.empty and its kin return with NaN, so that an element left unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.utils.deterministic.fill_uninitialized_memory is on by default
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def instruction_set():
    """Switches the CPU kernels: instruction_set("avx2"); back to the best at the end."""
    if not library.COMPILED:
        pytest.skip("the compiled library is not there")
    yield torch.ops.eokit.select_instruction_set
    torch.ops.eokit.select_instruction_set("auto")


@pytest.fixture
def instruction_set_or_skip(instruction_set):
    """As `instruction_set`, but a set that this CPU or build does not have skips the test."""

    def use(name):
        try:
            instruction_set(name)
        except RuntimeError:
            pytest.skip(f"this CPU or build has no {name}")

    return use


def assert_passes_interpreted(file):
    """The tests of `file` pass in a process of their own, in which Triton interprets its kernels."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    environment = os.environ | {"TRITON_INTERPRET": "1", "EOKIT_BACKEND": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
