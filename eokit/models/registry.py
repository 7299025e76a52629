"""Model families by name; a family's module is imported only when it is asked for.

A family is one module or package with `INFO: ModelInfo`, `PRESETS: dict[str, dict]` (plain configuration values by
preset name) and `build(config: dict) -> Encoder`. One whose weights are published also has `run_case` (see
`eokit.models.parity.compare`) and `from_published` (see `eokit.models.published.Published`). Adding one is a line in
`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from eokit.errors import UsageError
from eokit.models.base import Encoder
from eokit.models.info import ModelInfo

FAMILIES = {"cropsts": "eokit.models.cropsts", "anysat": "eokit.models.anysat"}


def presets(family: str) -> dict[str, dict[str, Any]]:
    """Preset name -> plain configuration of a family."""
    return _module(family).PRESETS


def get_info(family: str) -> ModelInfo:
    """What a family is in words and numbers."""
    return _module(family).INFO


def published_hook(family: str, name: str) -> Any:
    """The function `name` of a family whose weights are published; a UsageError for another one."""
    hook = getattr(_module(family), name, None)
    if hook is None:
        there = [one for one in FAMILIES if hasattr(_module(one), name)]
        raise UsageError(f"model {family} has no published weights; models that have: {', '.join(there)}")
    return hook


def build_encoder(family: str, preset: str | None = None, overrides: Mapping[str, Any] | None = None) -> Encoder:
    """A freshly initialised encoder: the values of `preset` (if any) with `overrides` on top."""
    module = _module(family)
    if preset is not None and preset not in module.PRESETS:
        raise UsageError(f"model {family} has no preset {preset!r}; presets: {', '.join(module.PRESETS)}")
    config = dict(module.PRESETS[preset]) if preset is not None else {}
    return module.build(config | dict(overrides or {}))


def _module(family: str) -> ModuleType:
    try:
        return import_module(FAMILIES[family])
    except KeyError:
        raise UsageError(f"unknown model {family!r}; models: {', '.join(FAMILIES)}") from None
