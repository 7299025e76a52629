"""Freed memory stays with a process that asks for it, unless its owner says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SETTINGS = ("EOKIT_KEEP_MEMORY", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
FREE_BLOCKS = """
from eokit.memory import freed_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
before = resident()
blocks = [bytearray(b"x") * (60 << 20) for _ in range(4)]
assert resident() - before > 200 << 20
del blocks
print(resident() - before > 200 << 20, freed_memory())
"""


def freed(**settings: str) -> str:
    """Whether a process still holds the blocks of 60 MiB that it freed, and what it says of them."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-c", FREE_BLOCKS]
    done = subprocess.run(command, env=clean | settings, capture_output=True, text=True, check=True)
    return done.stdout.strip()


linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")


@linux_only
def test_freed_blocks_stay_with_the_process():
    assert freed() == "True kept"


@linux_only
def test_the_owner_of_a_process_can_say_no():
    assert freed(EOKIT_KEEP_MEMORY="0") == "False left to the C library, EOKIT_KEEP_MEMORY=0"


@linux_only
@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.perturb=0")]
)
def test_settings_of_the_allocator_are_left_alone(name, value):
    assert freed(**{name: value}) == f"False left to the C library and {name}={value}"


def test_a_library_changes_nothing():
    code = "import eokit.doctor, eokit.training.engine; from eokit.memory import freed_memory; print(freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "left to the C library"


def test_the_command_line_keeps_what_it_frees():
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run([sys.executable, "-m", "eokit_cli.main", "doctor"], env=clean, capture_output=True, text=True)
    expected = "kept" if sys.platform.startswith("linux") else "left to the C library, which is not glibc"
    assert f"(freed: {expected})" in done.stdout
