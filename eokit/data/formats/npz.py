"""Numpy archives of published data sets: what the headers of their arrays promise, and a read that says what is wrong.

Called by the formats that ship `.npz` files. Nothing in them is ever unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from eokit.data.formats.npy import Header
from eokit.errors import DataError

_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def read_headers(path: Path) -> dict[str, Header]:
    """Name -> shape and dtype of every array in the file; DataError where it is missing or no npz."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; copy or download it again")
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    one = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = one(member)
                found[name.removesuffix(".npy")] = Header(tuple(shape), dtype)
    except _ERRORS as error:
        raise _damaged(path, error) from None
    pickled = [name for name, header in found.items() if header.dtype.hasobject]
    if pickled:
        raise DataError(f"{path}: {pickled[0]} holds pickled Python objects, expected plain values; never unpickled")
    return found


def read_member(path: Path, name: str) -> np.ndarray:
    """The whole array `name`; DataError where the file or the array is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy or download it again") from None
    except _ERRORS as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{path}: cannot be read as an npz file ({reason}); copy or download it again")
