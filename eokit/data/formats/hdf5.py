"""HDF5 files of published data sets: what their headers promise, and a read that says what is wrong.

Called by the formats that ship `.h5` files. Needs h5py (`eokit[geo]`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eokit.errors import DataError, SetupError


@dataclass(frozen=True)
class Arrays:
    """What a file holds: name -> shape and dtype of every array, and the texts of the ones that were asked for."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    texts: dict[str, list[str]]


def require_h5() -> None:
    """SetupError where h5py is missing."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise SetupError("h5 files need h5py, which is not installed; pip install 'eokit[geo]'") from None


def read_headers(path: Path, texts: Sequence[str] = ()) -> Arrays:
    """Shapes of the arrays at the top level of a file, and the strings of the arrays `texts`, those that are there."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; copy or download it again")
    try:
        with _open(path) as file:
            arrays = {name: one for name, one in file.items() if hasattr(one, "shape")}
            read = {name: [_text(one) for one in arrays[name][:]] for name in texts if name in arrays}
            shapes = {name: tuple(one.shape) for name, one in arrays.items()}
            return Arrays(shapes, {name: one.dtype.name for name, one in arrays.items()}, read)
    except (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def read_array(path: Path, name: str) -> np.ndarray:
    """The whole array `name`; DataError where the file or the array is missing or damaged."""
    try:
        with _open(path) as file:
            return file[name][:]
    except (OSError, RuntimeError, KeyError) as error:
        raise _damaged(path, error) from None


def _open(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")


def _text(value: bytes | str) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{path}: cannot be read as an h5 file ({reason}); copy or download it again")
