"""How much memory this process has taken; asked by -v and by dry runs."""

from __future__ import annotations

import sys


def peak_bytes() -> int:
    """The most memory that this process held at once, bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
