"""Where every pixel of a store lies: chunks, shards, rows of samples, and the Zarr v3 metadata that say so.

An array holds the dates of all samples one below the other, (rows, C, H, W). A sample starts on a chunk boundary in
time and stays within one shard unless it has more dates than a shard has rows. Called by the writer and by the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from eokit.data.spec import LabelSpec, ModalitySpec

SCHEMA_VERSION = 1
"""Version of the structure of a store; readers refuse newer ones."""

LAYOUTS = {"default": (8, 32), "pixel": (64, 16), "tile": (8, 128)}
"""Layout name -> (dates, pixels along an edge) of a chunk: random dates and crops, pixel series, whole images."""

IMAGE_EDGE = 128
"""Edge of the chunks of a modality without time (T = 1 everywhere), so that they are not tiny."""

SHARD_ROWS = 256
SHARD_BYTES = 128 << 20
"""A shard has 256 rows, or fewer so that it stays below this size before compression."""

DATE_BLOCK_BYTES = 6 << 10
"""From this size on one date of a chunk is a compression block of its own, so that it can be decoded alone."""

COMPRESSOR, LEVEL = "lz4hc", 1
"""LZ4 data, made by its middle encoder: 14 % smaller than plain LZ4 on Sentinel-2 and no slower to decode."""


@dataclass(frozen=True)
class ArrayLayout:
    """One sharded array. shape, chunk, shard: (rows, ...) with the same number of axes; a shard spans H and W."""

    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: str
    fill: int
    dims: tuple[str, ...]

    @property
    def date_bytes(self) -> int:
        """Bytes of one row of a chunk."""
        return prod(self.chunk[1:]) * np.dtype(self.dtype).itemsize

    @property
    def blocksize(self) -> int:
        """Blosc block: one date where that is worth it, else 0 (blosc decides)."""
        return self.date_bytes if self.date_bytes >= DATE_BLOCK_BYTES else 0

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        """How many chunks a shard has along each axis."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    def shard_file(self, number: int) -> str:
        """Path of the shard that holds rows from number x shard rows on, relative to the store."""
        return "/".join([self.path, "c", str(number), *["0"] * (len(self.shape) - 1)])

    def metadata(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """The array's zarr.json: shards of shuffled LZ4 chunks, each and the index with a crc32c."""
        itemsize = np.dtype(self.dtype).itemsize
        blosc = {
            "typesize": itemsize,
            "cname": COMPRESSOR,
            "clevel": LEVEL,
            "shuffle": "shuffle" if itemsize > 1 else "noshuffle",
            "blocksize": self.blocksize,
        }
        sharding = {
            "chunk_shape": list(self.chunk),
            "codecs": [_BYTES, {"name": "blosc", "configuration": blosc}, _CRC32C],
            "index_codecs": [_BYTES, _CRC32C],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return array_metadata(self, self.shard, codecs, attributes)


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC32C = {"name": "crc32c"}


def small_metadata(layout: ArrayLayout, attributes: dict[str, Any]) -> dict[str, Any]:
    """The zarr.json of a small array: one uncompressed chunk with a checksum."""
    chunk = tuple(max(length, 1) for length in layout.shape)
    return array_metadata(layout, chunk, [_BYTES, _CRC32C], attributes)


def array_metadata(
    layout: ArrayLayout, chunk: tuple[int, ...], codecs: list[dict[str, Any]], attributes: dict[str, Any]
) -> dict[str, Any]:
    """A Zarr v3 array document (https://zarr-specs.readthedocs.io/en/latest/v3/core/)."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(layout.shape),
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": layout.fill,
        "codecs": codecs,
        "attributes": attributes,
        "dimension_names": list(layout.dims),
        "storage_transformers": [],
    }


def modality_layout(spec: ModalitySpec, counts: Sequence[int], layout: str) -> tuple[ArrayLayout, np.ndarray]:
    """The array of one modality and the start row (N,) int64 of every sample, given each sample's number of dates."""
    dates, edge = LAYOUTS[layout]
    longest = max(counts, default=0)
    dates = min(dates, 1 << max(longest - 1, 0).bit_length())
    if longest <= 1:
        edge = max(edge, IMAGE_EDGE)
    bands, height, width = spec.shape
    chunk = (dates, bands, _even(height, edge), _even(width, edge))
    padded = tuple(ceil(length / c) * c for length, c in zip((height, width), chunk[2:], strict=True))
    row_bytes = bands * prod(padded) * np.dtype(spec.dtype).itemsize
    rows = max(min(SHARD_ROWS, SHARD_BYTES // row_bytes) // dates, 1) * dates
    starts, total = place(counts, dates, rows)
    fill = 0 if spec.nodata is None else spec.nodata
    dims = ("row", "band", "y", "x")
    path = f"{spec.name}/data"
    array = ArrayLayout(path, (total, *spec.shape), chunk, (rows, bands, *padded), spec.dtype, fill, dims)
    return array, starts


def label_layouts(specs: Sequence[LabelSpec], samples: int) -> list[ArrayLayout]:
    """The arrays of all label layers: one sample a chunk, and shards of the same samples in every layer.

    A label of whole samples is stored as a map of one row: (N, 1, K), or (N, 1, 1) for one class id.
    """
    row_bytes = max((prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in specs), default=1)
    rows = max(min(SHARD_ROWS, SHARD_BYTES // row_bytes), 1)
    shapes = [(1,) * (2 - len(spec.shape)) + spec.shape for spec in specs]
    return [
        ArrayLayout(
            path=f"labels/{spec.name}",
            shape=(samples, *shape),
            chunk=(1, *shape),
            shard=(rows, *shape),
            dtype=spec.dtype,
            fill=0 if spec.ignore is None else spec.ignore,
            dims=("sample", "y", "x") if spec.is_map else ("sample", "one", f"{spec.name}_class"),
        )
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def place(counts: Sequence[int], step: int, rows: int) -> tuple[np.ndarray, int]:
    """Start row of every sample, and all rows: on multiples of `step`, within one shard of `rows` where it fits."""
    starts = np.empty(len(counts), np.int64)
    cursor = 0
    for sample, count in enumerate(counts):
        length = ceil(count / step) * step
        if cursor % rows and cursor % rows + length > rows:
            cursor = ceil(cursor / rows) * rows
        starts[sample] = cursor
        cursor += length
    return starts, cursor


def _even(length: int, edge: int) -> int:
    """The chunk edge of at most `edge` that cuts `length` into pieces as even as can be: 128 -> 32, 40 -> 20."""
    return ceil(length / ceil(length / edge))
