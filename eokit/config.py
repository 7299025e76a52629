"""Typed configuration: pydantic models filled from YAML and `-o a.b=c`, unknown keys refused.

Every verb's settings are one class derived from `Settings`; the command line only fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from eokit.errors import UsageError


class Settings(BaseModel):
    """Base of all settings: frozen, every key known, values checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(
    kind: type[SettingsT],
    file: Path | None = None,
    overrides: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Settings from a YAML `file`, then what the command line `given` (None values are skipped), then `-o a.b=c`."""
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_yaml(file)
    values |= {key: value for key, value in (given or {}).items() if value is not None}
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        hint = f"; known keys: {', '.join(_siblings(kind, first['loc']))}" if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"{where} = {first['input']!r}: {first['msg']}{hint}") from None


def _siblings(kind: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    for part in where[:-1]:
        inner = kind.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        kind = inner
    return list(kind.model_fields)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{file}: holds a {type(values).__name__}, expected keys and values")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UsageError(f"-o {override!r}: write it as key=value or part.key=value")
    *parents, leaf = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"-o {override!r}: {parent} is a single value, it has no parts")
    try:
        values[leaf] = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"-o {override!r}: its value is no YAML ({' '.join(str(error).split())})") from None
