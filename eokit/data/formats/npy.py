"""Numpy files of published data sets: what a header promises, and a read that says what is wrong.

Called by the formats that ship `.npy` arrays. A header is read in some 50 microseconds, so that every file of a data
set can be checked before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eokit.errors import DataError


@dataclass(frozen=True)
class Header:
    """Shape and dtype of the array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_header(path: Path) -> Header:
    """What the file at `path` holds; DataError where it is missing, no npy, pickled, or shorter than it promises."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            start = file.tell()
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy or download it again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an npy file ({error}); copy or download it again") from None
    if dtype.hasobject:
        raise DataError(f"{path}: holds pickled Python objects, expected plain numbers; it is never unpickled")
    promised = start + dtype.itemsize * math.prod(shape)
    if size < promised:
        raise DataError(
            f"{path}: truncated, {size} bytes where its header promises {promised}; copy or download it again"
        )
    return Header(tuple(shape), dtype)


def read_array(path: Path) -> np.ndarray:
    """The whole array of a file; DataError where it is missing or damaged."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy or download it again") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an npy file ({error}); copy or download it again") from None
