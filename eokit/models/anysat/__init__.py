"""AnySat: any sensor, resolution and scale (Astruc et al., CVPR 2025). `eokit.models.registry` builds it from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eokit.models.anysat.info import INFO
from eokit.models.anysat.model import AnySat, AnySatConfig
from eokit.models.anysat.official import from_published, run_case
from eokit.models.anysat.presets import PRESETS
from eokit.models.base import config_from

__all__ = ["INFO", "PRESETS", "build", "from_published", "run_case"]


def build(config: Mapping[str, Any]) -> AnySat:
    """A freshly initialised AnySat; unknown keys are a UsageError."""
    return AnySat(config_from(AnySatConfig, config, "anysat"))
