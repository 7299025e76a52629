"""Finds the store that is meant when none is named."""

from __future__ import annotations

from pathlib import Path

from eokit.errors import UsageError


def only_store(folder: Path = Path("data")) -> Path:
    """The one `*.zarr` in `folder`; UsageError when there is none, or several to choose from."""
    stores = sorted(path for path in folder.glob("*.zarr") if path.is_dir())
    if len(stores) == 1:
        return stores[0]
    if not stores:
        raise UsageError(
            f"no store in {folder.absolute()}: name the store, or make one with"
            " `eokit prepare pastis` or `eokit prepare synthetic`"
        )
    raise UsageError(f"{folder.absolute()} holds {len(stores)} stores, name one of {', '.join(map(str, stores))}")
