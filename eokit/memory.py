"""Memory of this process: what becomes of it when it is freed, and how much has been taken."""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "EOKIT_KEEP_MEMORY"
"""0: freed memory is left to the C library, as in any other program."""

LARGEST_KEPT = 64 << 20
"""Bytes of a block. Larger ones leave gaps in the heap that cost more than they save: with blocks of up to 2 GiB kept,
fine-tuning on whole patches held 13.7 GiB instead of 9.9, with up to 64 MiB some 3 to 9 % more (docs/decisions.md)."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_NEVER = -1
_SETTINGS_OF_GLIBC = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")
_LEFT_ALONE = "left to the C library"
_freed = _LEFT_ALONE


def keep_freed_memory() -> None:
    """Keep what this process frees for what it needs next.

    glibc gives every freed block of 32 MiB and more back to the system, and smaller ones from the end of its heap. A
    step of training asks for all of it again, and the system clears it page by page, which on a CPU can take a third of
    the step. From now on blocks of up to LARGEST_KEPT stay with the process (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of
    mallopt(3)).

    It leaves everything as it is without glibc, where the environment sets glibc's allocator, and with
    EOKIT_KEEP_MEMORY=0; `freed_memory` says why. There is no way back: to be called by a program, not by a library.
    """
    global _freed
    theirs = [name for name in _SETTINGS_OF_GLIBC if os.environ.get(name)]
    if os.environ.get(VARIABLE) == "0":
        _freed = f"{_LEFT_ALONE}, {VARIABLE}=0"
    elif theirs:
        _freed = f"{_LEFT_ALONE} and {', '.join(f'{name}={os.environ[name]}' for name in theirs)}"
    elif not _tell_glibc():
        _freed = f"{_LEFT_ALONE}, which is not glibc"
    else:
        _freed = "kept"


def _tell_glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    largest = (LARGEST_KEPT, LARGEST_KEPT // 2)  # older ones take 32 MiB at most
    limited = any(library.mallopt(_M_MMAP_THRESHOLD, one) for one in largest)
    return limited and bool(library.mallopt(_M_TRIM_THRESHOLD, _NEVER))


def freed_memory() -> str:
    """What becomes of freed memory: "kept", or "left to the C library" with the reason where it was to be kept."""
    return _freed


def peak_bytes() -> int:
    """The most memory that this process held at once, bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
