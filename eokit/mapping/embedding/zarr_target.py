"""Features as a Zarr v3 group: `features` (sample, channel[, y, x]), and `scale` (channel) where they are int8.

The group's attributes list the samples in the order of the rows, each with id, fold and place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eokit.files import writing
from eokit.mapping.embedding.layout import Layout

CHUNK_BYTES = 8 << 20
"""A chunk has at most so many bytes, while its edge can be halved; the chunks of a sample are one file."""
ROWS = 1024
"""Samples of a chunk of vectors."""


class ZarrMaps:
    """Maps of features, each written when it is there: a sample is one file, so that a broken one is written again."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._path = folder / "out"
        self._features = _create(self._path, layout)

    def write(self, first: int, stored: np.ndarray) -> None:
        """See `eokit.mapping.embedding.layout.Target`."""
        with writing(self._path, hint="add --resume"):
            for row, one in enumerate(stored, first):
                self._features[row] = one

    def finish(self, facts: dict[str, Any]) -> Path:
        """See `eokit.mapping.embedding.layout.Target`."""
        _tell(self._path, facts)
        return self._path


class Vectors:
    """Vectors of features, kept side by side in a plain file until all are there; what Zarr and GeoParquet share."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        file, shape = folder / "vectors.raw", (len(layout.places), *layout.shape)
        with writing(file, hint="add --resume"):
            self.rows: np.ndarray = np.memmap(file, layout.dtype, "r+" if file.exists() else "w+", shape=shape)

    def write(self, first: int, stored: np.ndarray) -> None:
        """See `eokit.mapping.embedding.layout.Target`."""
        with writing(self.folder, hint="add --resume"):
            self.rows[first : first + len(stored)] = stored
            self.rows.flush()  # type: ignore[attr-defined]


class ZarrVectors(Vectors):
    """Vectors as a Zarr array."""

    def finish(self, facts: dict[str, Any]) -> Path:
        """See `eokit.mapping.embedding.layout.Target`."""
        path = self.folder / "out"
        features = _create(path, self.layout)
        with writing(path, hint="add --resume"):
            for start in range(0, len(self.rows), ROWS):
                features[start : start + ROWS] = self.rows[start : start + ROWS]
        _tell(path, facts)
        return path


def _create(path: Path, layout: Layout) -> Any:
    """The array `features` of the group at `path`, made where it is not there yet."""
    import zarr

    if (path / "features" / "zarr.json").is_file():
        return zarr.open_array(path / "features", mode="r+")
    names = ["sample", "channel", "y", "x"][: 1 + len(layout.shape)]
    shape = (len(layout.places), *layout.shape)
    maps = len(layout.shape) == 3
    chunks = _chunk(layout) if maps else (min(len(layout.places), ROWS), *layout.shape)
    with writing(path, hint="add --resume"):
        places = [place.attributes() for place in layout.places]
        group = zarr.open_group(path, mode="w", attributes=layout.attributes | {"samples": places})
        if layout.coding.scale is not None:
            scale = group.create_array("scale", shape=layout.shape[:1], dtype="float32", dimension_names=["channel"])
            scale[:] = layout.coding.scale
        return group.create_array(
            "features",
            shape=shape,
            chunks=chunks,
            shards=(1, *layout.shape) if maps and chunks[1:] != layout.shape else None,
            dtype=layout.dtype,
            fill_value=layout.coding.unseen,
            dimension_names=names,
            attributes={"_FillValue": layout.coding.unseen} if layout.coding.dtype == "int8" else {},  # for xarray
        )


def _chunk(layout: Layout) -> tuple[int, ...]:
    """One sample, or its quarters, sixteenths ... where it is large."""
    channels, height, width = layout.shape
    while channels * height * width * layout.dtype.itemsize > CHUNK_BYTES and not (height % 2 or width % 2):
        height, width = height // 2, width // 2
    return 1, channels, height, width


def _tell(path: Path, facts: dict[str, Any]) -> None:
    import zarr

    with writing(path, hint="add --resume"):
        zarr.open_group(path, mode="r+").attrs.update(facts)


def read_zarr_facts(path: Path) -> dict[str, Any]:
    """The attributes of the group at `path`; empty where there is none."""
    try:
        return dict(json.loads((path / "zarr.json").read_bytes())["attributes"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
