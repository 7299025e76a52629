"""How many processor cores there are to use; asked by the loaders, by `eokit prepare` and by `eokit doctor`."""

from __future__ import annotations

import os


def cores() -> int:
    """Cores that this process may use; where the system does not say (macOS), those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
