"""JSON tables of published data sets: labels, splits, dates by name. Called by the formats that ship them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eokit.errors import DataError


def read_table(path: Path, form: str) -> dict[str, Any]:
    """The object in a JSON file; DataError where it is missing, damaged or no object, with the `form` expected."""
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy or download it again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); copy or download it again") from None
    if not isinstance(table, dict):
        raise DataError(f"{path}: expected {form}, found a {type(table).__name__}")
    return table
