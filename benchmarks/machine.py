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
from eokit.errors import UsageError
from eokit.memory import freed_memory


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, load, what becomes of freed memory, day, commit, versions of Python and of `packages`."""
    return {
        "processor": processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1),
        "freed_memory": freed_memory(),
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


def memory_bytes(device: Any) -> int:
    """All memory of a torch device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def refuse_if_too_large(needed: int, device: Any, options: str) -> None:
    """UsageError where a case cannot fit into the memory of the device; `options` are those that make it large."""
    there = memory_bytes(device)
    if needed > there:
        raise UsageError(
            f"{options}: a case would take about {needed / 1e9:.3g} GB of memory,"
            f" {device} has {there / 1e9:.3g} GB; choose smaller ones"
        )


def device_name(device: Any) -> str:
    """The folder that results of a torch device go to: cpu, nvidia-h100-80gb-hbm3."""
    import torch

    return "cpu" if device.type == "cpu" else "-".join(torch.cuda.get_device_name(device).lower().split())
