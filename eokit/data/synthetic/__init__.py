"""SYNTHETIC seasons that look like crops, for the demo and the tests; nothing here was ever seen by a satellite."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from eokit.data.synthetic.pastis import write_synthetic_pastis
from eokit.errors import ArgumentError

__all__ = ["WRITERS", "write_copy", "write_synthetic_pastis"]

WRITERS = {
    "treesatai": "eokit.data.synthetic.treesatai",
    "planted": "eokit.data.synthetic.planted",
    "flair": "eokit.data.synthetic.flair",
    "s2naip": "eokit.data.synthetic.s2naip",
}
"""Data sets other than PASTIS, and the module whose `write_synthetic` makes a copy of each."""

PATCHES, PASTIS_SIZE = 16, 128


def write_copy(
    name: str, path: Path, *, patches: int = PATCHES, size: int | None = None, seed: int = 0, workers: int = 1,
    quiet: bool = True,
) -> Path:  # fmt: skip
    """A SYNTHETIC copy of the data set `name` in its published layout at `path`; returns it.

    size: pixels along an edge, of PASTIS alone, whose patches are 128 px; the others have the one that their data set
    has, and ArgumentError says so.
    """
    if name == "pastis":
        size = PASTIS_SIZE if size is None else size
        return write_synthetic_pastis(path, patches=patches, size=size, seed=seed, workers=workers, quiet=quiet)
    if size is not None:
        raise ArgumentError(f"size={size}: patches of {name} have one size, that of its publication; leave it out")
    return import_module(WRITERS[name]).write_synthetic(path, patches=patches, seed=seed, quiet=quiet)
