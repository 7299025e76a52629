"""Freed memory stays with a process that asks for it, unless its owner says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from eokit import memory

FREE_BLOCKS = """
import resource
from eokit.memory import freed_memory, keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

keep_freed_memory()
before = resident()
blocks = [bytearray(b"x") * (30 << 20) for _ in range(8)]
assert resident() - before > 200 << 20
del blocks
print(resident() - before > 200 << 20, freed_memory())
"""
glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")


def run(*command: str, **settings: str) -> str:
    """What a Python process prints whose environment says nothing else of memory than `settings`."""
    ours = {memory.VARIABLE, *memory._OF_GLIBC}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run([sys.executable, *command], env=clean | settings, capture_output=True, text=True, check=True)
    return done.stdout


@glibc_only
def test_freed_blocks_stay_with_the_process():
    stayed, said = run("-c", FREE_BLOCKS).strip().split(" ", 1)
    assert stayed == "True"
    assert said.startswith("kept")


@glibc_only
@pytest.mark.parametrize("no", ["0", "false", "Off"])
def test_the_owner_of_a_process_can_say_no(no):
    said = run("-c", FREE_BLOCKS, EOKIT_KEEP_MEMORY=no).strip()
    assert said == f"False left to the C library, EOKIT_KEEP_MEMORY={no}"


@glibc_only
@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.check=0")]
)
def test_settings_of_the_allocator_are_left_alone(name, value):
    assert run("-c", FREE_BLOCKS, **{name: value}).strip() == f"False left to the C library and {name}={value}"


@glibc_only
def test_settings_of_other_parts_of_glibc_do_not_matter():
    assert run("-c", FREE_BLOCKS, GLIBC_TUNABLES="glibc.pthread.rseq=0").startswith("True kept")


def test_another_allocator_is_left_alone(monkeypatch):
    with_jemalloc = type("Library", (), {"gnu_get_libc_version": None, "mallctl": None})
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: with_jemalloc)
    assert memory._tell_glibc() == "left to the allocator that was loaded before the C library's"


def test_an_older_glibc_keeps_what_it_can(monkeypatch):
    asked = []
    old = type("Library", (), {"gnu_get_libc_version": None})
    old.mallopt = staticmethod(lambda what, value: asked.append((what, value)) or value <= 32 << 20)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: old)
    assert memory._tell_glibc() == "kept in blocks of up to 32 MiB"
    assert asked == [(-3, 64 << 20), (-3, 32 << 20), (-1, -1)]


def test_a_library_changes_nothing():
    code = "import eokit.doctor, eokit.training.engine; from eokit.memory import freed_memory; print(freed_memory())"
    assert run("-c", code).strip() == "left to the C library"


@glibc_only
def test_the_command_line_keeps_what_it_frees():
    assert "(freed: kept" in run("-m", "eokit_cli.main", "doctor")
