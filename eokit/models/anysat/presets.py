"""The sizes of AnySat, as those of the published hub module."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},  # the published weights
    "small": {"width": 512, "depth": 4},
    "tiny": {"width": 256, "depth": 2},  # for a CPU
}
