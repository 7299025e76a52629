"""Writes the files of a store: shards chunk by chunk, small arrays, anything else aside and then renamed.

The bytes are those of a standard Zarr v3 `sharding_indexed` array and depend on nothing but the values. Called by
`eokit.data.writer`.
"""

from __future__ import annotations

import os
import struct
from itertools import accumulate, product
from math import prod
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from eokit.data.layout import COMPRESSOR, LEVEL, ArrayLayout
from eokit.data.shard_reader import EMPTY, contextual_blosc
from eokit.files import writing


class ShardWriter:
    """One shard file, written from its first chunk layer in time to its last; the file appears when it is whole.

        with ShardWriter(root, layout, number) as shard:
            shard.write(row, values)     # row within the shard, on a chunk boundary; values (t, ...) of whole H, W

    A shard of nothing but fill values gets no file: that is how Zarr stores it.
    """

    def __init__(self, root: Path, layout: ArrayLayout, number: int) -> None:
        self.file = root / layout.shard_file(number)
        self.size = 0
        self.checksum = 0
        self._layout = layout
        self._grid = layout.chunks_per_shard
        self._index = np.full((prod(self._grid), 2), EMPTY, "<u8")
        self._aside = _aside(self.file)
        self._stream: BinaryIO | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        elif self._stream is not None:
            self._stream.close()
            self._aside.unlink(missing_ok=True)

    def write(self, row: int, values: np.ndarray) -> None:
        """Store `values` from `row` of this shard on; rows up to the next chunk boundary become fill."""
        step = self._layout.chunk[0]
        for start in range(0, len(values), step):
            self._write_layer((row + start) // step, values[start : start + step])

    def _write_layer(self, depth: int, values: np.ndarray) -> None:
        """All chunks of one chunk layer in time."""
        chunk_shape, fill = self._layout.chunk, self._layout.fill
        per_layer = prod(self._grid[1:])
        for number, corner in enumerate(product(*(range(count) for count in self._grid[1:]))):
            parts = [slice(c * e, (c + 1) * e) for c, e in zip(corner, chunk_shape[1:], strict=True)]
            part = values[:, *parts]
            # One pixel tells apart most chunks that hold something.
            if part.flat[0] == fill and (part == fill).all():
                continue
            if part.shape == chunk_shape:
                chunk = np.ascontiguousarray(part)
            else:
                chunk = np.full(chunk_shape, fill, self._layout.dtype)
                chunk[tuple(slice(length) for length in part.shape)] = part
            self._index[depth * per_layer + number] = self._append(self._compress(chunk))

    def _compress(self, chunk: np.ndarray) -> bytes:
        """One blosc frame, with each date a block of its own where the layout says so."""
        if self._layout.blocksize:
            joined = join_frames([_frame(date) for date in chunk])
            if joined is not None:
                return _with_checksum(joined)
        return _with_checksum(_frame(chunk))

    def _append(self, data: bytes) -> tuple[int, int]:
        import google_crc32c

        with writing(self.file):
            if self._stream is None:
                self._aside.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._aside.open("wb")
            self._stream.write(data)
        offset = self.size
        self.size += len(data)
        self.checksum = google_crc32c.extend(self.checksum, data)
        return offset, len(data)

    def _close(self) -> None:
        """Append the index and put the file in place."""
        if self._stream is None:
            # An earlier try may have left a file with samples that are now left out.
            with writing(self.file):
                self.file.unlink(missing_ok=True)
            return
        self._append(_with_checksum(self._index.tobytes()))
        with writing(self.file):
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._aside.replace(self.file)


def join_frames(frames: list[bytes]) -> bytes | None:
    """One blosc frame whose blocks are those of `frames`; None unless each is one compressed block of the same size.

    c-blosc itself takes no block below 64 KiB where it splits bytes, but every blosc decodes them. For the format see
    `eokit.data.shard_reader.block_run`, the inverse.
    """
    sizes = [struct.unpack_from("<II", frame, 4) for frame in frames]
    size = sizes[0][0]
    if any(one != (size, size) for one in sizes) or any(frame[2] & 2 or frame[:4] != frames[0][:4] for frame in frames):
        return None
    blocks = [frame[20:] for frame in frames]
    starts = list(accumulate(map(len, blocks), initial=16 + 4 * len(blocks)))
    head = struct.pack(f"<III{len(blocks)}i", size * len(blocks), size, starts[-1], *starts[:-1])
    return b"".join((frames[0][:4], head, *blocks))


def _frame(values: np.ndarray) -> bytes:
    blosc = contextual_blosc()
    shuffle = blosc.SHUFFLE if values.itemsize > 1 else blosc.NOSHUFFLE
    return blosc.compress(values, COMPRESSOR.encode(), LEVEL, shuffle)


def write_small(root: Path, layout: ArrayLayout, values: np.ndarray) -> None:
    """A small array (days, offset) as its one chunk."""
    if values.size:
        key = "/".join(["c", *["0"] * values.ndim])
        write_aside(root / layout.path / key, _with_checksum(values.astype(layout.dtype).tobytes()))


def read_small(root: Path, metadata: dict, path: str) -> np.ndarray:
    """A small array as `write_small` wrote it; ValueError when its bytes are not what they should be."""
    import google_crc32c

    shape, dtype = metadata["shape"], np.dtype(metadata["data_type"])
    if not prod(shape):
        return np.empty(shape, dtype)
    data = root.joinpath(path, "c", *["0"] * len(shape)).read_bytes()
    if google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError("does not match its checksum")
    return np.frombuffer(data, dtype, prod(shape)).reshape(shape)


def write_aside(file: Path, data: bytes) -> None:
    """Write a whole file so that it is either there and complete, on the disk, or not there."""
    aside = _aside(file)
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)


def _aside(file: Path) -> Path:
    """Where `file` is written before it is renamed; its own per process, so that no two writers can mix."""
    return file.with_name(f".{file.name}.{os.getpid()}")


def _with_checksum(data: bytes) -> bytes:
    import google_crc32c

    return data + google_crc32c.value(data).to_bytes(4, "little")
