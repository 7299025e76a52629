"""What a measurement was taken on: every result file carries it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from eokit.cores import cores


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, load, day, commit, and the versions of Python and of `packages`."""
    return {
        "processor": processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1),
        "day": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "python": platform.python_version(),
    } | {name: metadata.version(name) for name in packages}


def processor() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The checked-out commit, "+" where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    outcome = subprocess.run(command, capture_output=True, text=True)
    return outcome.stdout.strip() or None
