"""Memory of this process: what becomes of it when it is freed, and how much has been taken."""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "EOKIT_KEEP_MEMORY"
"""0, no, off or false: freed memory is left to the C library, as in any other program."""

LARGEST_KEPT = 64 << 20
"""Bytes of a block. Larger ones leave gaps in the heap that cost too much: with blocks of up to 2 GiB kept, fine-tuning
on whole patches held 13.7 GiB instead of 9.9, with up to 64 MiB 9.9 (docs/decisions.md)."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = -1
_OF_GLIBC = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
_OTHER_ALLOCATORS = ("mallctl", "tc_version", "mi_version")  # a function each of jemalloc, tcmalloc and mimalloc
_outcome = ""


def keep_freed_memory() -> None:
    """Keep what this process frees for what it needs next.

    glibc gives every freed block of 32 MiB and more back to the system, and smaller ones from the end of its heap. A
    step of training asks for all of it again, and the system clears it page by page: on a CPU a fifth to almost half of
    a step's processor time. From now on blocks of up to LARGEST_KEPT stay with the process (M_MMAP_THRESHOLD and
    M_TRIM_THRESHOLD of mallopt(3)); processes that it starts are not concerned.

    It leaves everything as it is without glibc or with another allocator before it, where the environment sets glibc's,
    and with EOKIT_KEEP_MEMORY=0; `freed_memory` says why. There is no way back: to be called by a program, not by a
    library.
    """
    global _outcome
    if os.environ.get(VARIABLE, "").lower() in ("0", "no", "off", "false"):
        _outcome = f"left to the C library, {VARIABLE}={os.environ[VARIABLE]}"
    elif not _settings():
        _outcome = _tell_glibc()


def _settings() -> str:
    """What the environment says of glibc's allocator."""
    given = {name: os.environ.get(name, "") for name in _OF_GLIBC}
    if "glibc.malloc." not in given["GLIBC_TUNABLES"]:
        del given["GLIBC_TUNABLES"]
    return ", ".join(f"{name}={value}" for name, value in given.items() if value)


def _tell_glibc() -> str:
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        return "left to the C library, which is not glibc"
    if any(hasattr(library, name) for name in _OTHER_ALLOCATORS):
        return "left to the allocator that was loaded before the C library's"
    for largest in (LARGEST_KEPT, LARGEST_KEPT // 2):  # older ones take 32 MiB at most
        if library.mallopt(_M_MMAP_THRESHOLD, largest) and library.mallopt(_M_TRIM_THRESHOLD, _NEVER):
            return "kept" if largest == LARGEST_KEPT else f"kept in blocks of up to {largest >> 20} MiB"
    return "left to the C library, which refused to keep it"


def freed_memory() -> str:
    """What becomes of freed memory: "kept", or "left to the C library", with the environment's settings and reasons."""
    settings = _settings()
    return _outcome or "left to the C library" + (f" and {settings}" if settings else "")


def peak_bytes() -> int:
    """The most memory that this process held at once, bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
