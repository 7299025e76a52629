"""Reads chosen rows and a window of a sharded Zarr v3 array straight from its shard files.

zarr-python is the reference (a test holds them equal) and the fallback for codecs not known here. A reader keeps no
file open, so it can be pickled and forked; what it keeps are the shard indexes it has seen. Called by `Store`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eokit.errors import DataError

EMPTY = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that holds nothing but the fill value."""

KEPT_INDEXES = 4096
"""Shard indexes remembered by one reader (8 KiB each for 512 chunks)."""

_COPY_BYTES = 64
"""Pixel rows that are whole multiples of this are copied as items of that size: numpy is a third faster at it."""

_scratch = threading.local()


class Run(NamedTuple):
    """`count` consecutive rows: from row `src` of a chunk to row `dst` of the output."""

    src: int
    dst: int
    count: int


class Tile(NamedTuple):
    """The part of a chunk that a window wants (y, x within the chunk) and where it goes in the output (Y, X)."""

    number: int
    y: slice
    x: slice
    to_y: slice
    to_x: slice


class ShardedArray:
    """One array (rows, [C,] H, W) of a store; `read` is all it does."""

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        self.folder = folder
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"])
        self._fill = metadata["fill_value"]
        self._indexes: dict[int, np.ndarray] = {}
        self._known = _knows(metadata)
        if self._known:
            self._shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            inner = metadata["codecs"][0]["configuration"]
            self._chunk: list[int] = inner["chunk_shape"]
            self._checked = inner["codecs"][-1]["name"] == "crc32c"
            self._grid = [s // c for s, c in zip(self._shard, self._chunk, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_indexes": {}}

    def read(self, rows: np.ndarray, window: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """(len(rows), [C,] h, w): the given rows in the given order, and of each the window (y0, y1, x0, x1)."""
        y0, y1, x0, x1 = window or (0, self.shape[-2], 0, self.shape[-1])
        if not self._known:
            return self._read_by_zarr(rows, (slice(y0, y1), slice(x0, x1)))
        middle = self.shape[1:-2]
        # Three-axis label arrays are read as one band.
        out = np.empty((len(rows), prod(middle), y1 - y0, x1 - x0), self.dtype)
        tiles = list(self._tiles((y0, y1, x0, x1)))
        per_shard = self._grid[0]
        current, file = -1, -1
        try:
            for chunk, runs in _runs_by_chunk(np.asarray(rows, np.int64), self._chunk[0]):
                shard, depth = divmod(chunk, per_shard)
                if shard != current:
                    file, current = self._reopen(file, shard), shard
                self._read_chunks(file, shard, depth, runs, tiles, out)
        finally:
            if file >= 0:
                os.close(file)
        return out.reshape(len(rows), *middle, y1 - y0, x1 - x0)

    def _read_chunks(
        self, file: int, shard: int, depth: int, runs: list[Run], tiles: list[Tile], out: np.ndarray
    ) -> None:
        """All tiles of one chunk layer in time: fetch, check, decode, put in place."""
        numbers = [depth * prod(self._grid[1:]) + tile.number for tile in tiles]
        places = self._index(file, shard)[numbers] if file >= 0 else None
        if places is not None:
            _announce(file, places)
        shape = (self._chunk[0], out.shape[1], *self._chunk[-2:])
        for position, tile in enumerate(tiles):
            if places is None or places[position, 0] == EMPTY:
                for run in runs:
                    out[run.dst : run.dst + run.count, :, tile.to_y, tile.to_x] = self._fill
                continue
            offset, length = (int(number) for number in places[position])
            frame = self._fetch(file, shard, numbers[position], offset, length)
            direct = _contiguous_target(out, runs, tile, shape)
            chunk = _scratch_chunk(shape, self.dtype) if direct is None else direct
            try:
                _decode(frame, runs, chunk)
            except (RuntimeError, ValueError, struct.error) as error:
                raise self._damaged(shard, numbers[position], f"does not decode ({error})") from None
            if direct is None:
                _copy(chunk, runs, tile, out)

    def _fetch(self, file: int, shard: int, number: int, offset: int, length: int) -> memoryview:
        """The compressed bytes of one chunk, their checksum checked and cut off."""
        import google_crc32c

        data = os.pread(file, length, offset)
        if len(data) != length:
            raise self._damaged(shard, number, f"ends after {len(data)} of {length} bytes")
        if not self._checked:
            return memoryview(data)
        frame = memoryview(data)[:-4]
        found = google_crc32c.value(np.frombuffer(frame, np.uint8))
        if found != int.from_bytes(data[-4:], "little"):
            raise self._damaged(shard, number, "does not match its checksum")
        return frame

    def _reopen(self, file: int, shard: int) -> int:
        """Close `file`, open that of `shard`; -1 where there is none (a shard of fill values only)."""
        if file >= 0:
            os.close(file)
        try:
            return os.open(self._file(shard), os.O_RDONLY)
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise DataError(f"{self._file(shard)}: cannot be read ({error.strerror})") from None

    def _index(self, file: int, shard: int) -> np.ndarray:
        """(chunks of a shard, 2) uint64: offset and length of every chunk, from the end of the file."""
        import google_crc32c

        if shard in self._indexes:
            return self._indexes[shard]
        count = prod(self._grid)
        size = os.fstat(file).st_size
        data = os.pread(file, 16 * count + 4, max(size - 16 * count - 4, 0))
        if len(data) != 16 * count + 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise DataError(f"{self._file(shard)}: the index at its end is damaged or cut off ({size} bytes); {_CURE}")
        index = np.frombuffer(data, "<u8", 2 * count).reshape(count, 2)
        full = index[index[:, 0] != EMPTY]
        if len(full) and int(full.sum(1).max()) > size:
            raise DataError(f"{self._file(shard)}: {size} bytes, but its index points beyond; {_CURE}")
        if len(self._indexes) >= KEPT_INDEXES:
            self._indexes.clear()
        self._indexes[shard] = index
        return index

    def _tiles(self, window: tuple[int, int, int, int]) -> Iterator[Tile]:
        y0, y1, x0, x1 = window
        columns = self._grid[-1]
        for row, y, to_y in _cuts(y0, y1, self._chunk[-2]):
            for column, x, to_x in _cuts(x0, x1, self._chunk[-1]):
                yield Tile(row * columns + column, y, x, to_y, to_x)

    def _file(self, shard: int) -> Path:
        return self.folder.joinpath("c", str(shard), *["0"] * (len(self.shape) - 1))

    def _damaged(self, shard: int, number: int, what: str) -> DataError:
        return DataError(f"{self._file(shard)}: chunk {number} {what}; {_CURE}")

    def _read_by_zarr(self, rows: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
        import zarr

        array = zarr.open_array(str(self.folder), mode="r", zarr_format=3)
        everything = (slice(None),) * (len(self.shape) - 3)
        return np.asarray(array.oindex[(np.asarray(rows), *everything, *window)])


def contextual_blosc() -> Any:
    """`numcodecs.blosc` without its thread pool, as zarr-python sets it too: safe in threads and forked processes."""
    from numcodecs import blosc

    blosc.use_threads = False
    return blosc


_CURE = "the file is damaged: prepare the store again with --overwrite, or copy it anew"


def _knows(metadata: dict[str, Any]) -> bool:
    """Whether the codecs are shards of little-endian blosc chunks, with a shard over all but the rows."""
    sharding = metadata["codecs"][0]
    if sharding["name"] != "sharding_indexed" or len(metadata["codecs"]) != 1:
        return False
    inner = sharding["configuration"]
    names = [codec["name"] for codec in inner["codecs"]]
    index_names = [codec["name"] for codec in inner["index_codecs"]]
    endian = inner["codecs"][0].get("configuration", {}).get("endian", "little")
    spans = metadata["chunk_grid"]["configuration"]["chunk_shape"][1:]
    return (
        names in (["bytes", "blosc"], ["bytes", "blosc", "crc32c"])
        and index_names == ["bytes", "crc32c"]
        and endian == "little"
        and inner.get("index_location", "end") == "end"
        and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and all(span >= length for span, length in zip(spans, metadata["shape"][1:], strict=True))
        and inner["chunk_shape"][1:-2] == metadata["shape"][1:-2]
    )


def _runs_by_chunk(rows: np.ndarray, chunk_rows: int) -> Iterator[tuple[int, list[Run]]]:
    """Chunk number in time -> runs, in the order of the chunks; the rows may come in any order."""
    order = np.argsort(rows, kind="stable")
    for chunk in np.unique(rows // chunk_rows):
        wanted = order[rows[order] // chunk_rows == chunk]
        runs: list[Run] = []
        for dst in wanted.tolist():
            src = int(rows[dst] - chunk * chunk_rows)
            last = runs[-1] if runs else None
            if last and (last.src + last.count, last.dst + last.count) == (src, dst):
                runs[-1] = last._replace(count=last.count + 1)
            else:
                runs.append(Run(src, dst, 1))
        yield int(chunk), runs


def _cuts(start: int, stop: int, edge: int) -> Iterator[tuple[int, slice, slice]]:
    """Chunk number along one axis, the part of it within start..stop, and where that part goes."""
    for number in range(start // edge, (stop + edge - 1) // edge):
        first, last = max(start, number * edge), min(stop, (number + 1) * edge)
        yield number, slice(first - number * edge, last - number * edge), slice(first - start, last - start)


def _announce(file: int, places: np.ndarray) -> None:
    """Tell the kernel which bytes come next, adjacent chunks as one range: one request each on a cold disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    full = places[places[:, 0] != EMPTY].astype(np.int64)
    if not len(full):
        return
    full = full[np.argsort(full[:, 0])]
    ends = full[:, 0] + full[:, 1]
    first = np.flatnonzero(np.r_[True, full[1:, 0] != ends[:-1]])
    for start, stop in zip(full[first, 0], ends[np.r_[first[1:] - 1, len(full) - 1]], strict=True):
        os.posix_fadvise(file, int(start), int(stop - start), os.POSIX_FADV_WILLNEED)


def _decode(frame: memoryview, runs: list[Run], chunk: np.ndarray) -> None:
    """Decode the rows of `runs` into their place in `chunk` (rows, C, h, w): only these where a row is whole blocks."""
    blosc = contextual_blosc()

    rows = len(chunk)
    total, block, _ = struct.unpack_from("<III", frame, 4)
    if total != chunk.nbytes:
        raise ValueError(f"holds {total} bytes, expected {chunk.nbytes}")
    row_bytes = total // rows
    if sum(run.count for run in runs) >= rows or block == 0 or row_bytes % block:
        blosc.decompress(frame, chunk)
        return
    per_row = row_bytes // block
    for run in runs:
        part = _block_run(frame, run.src * per_row, run.count * per_row)
        if part is None:
            blosc.decompress(frame, chunk)
            return
        blosc.decompress(part, chunk[run.src : run.src + run.count])


def _block_run(frame: memoryview, first: int, count: int) -> bytes | None:
    """A blosc frame of `count` blocks of `frame`; None where its blocks are not stored in order.

    Format 2 of c-blosc 1 (README_CHUNK_FORMAT.rst): version, version of the compressor, flags, typesize, then
    uint32 bytes, block size, compressed bytes; the int32 start of every block, the blocks. Flag 2: plain copy.
    """
    total, block, size = struct.unpack_from("<III", frame, 4)
    blocks = total // block
    if frame[2] & 2:
        body, table = frame[16 + first * block : 16 + (first + count) * block], b""
    else:
        starts = np.frombuffer(frame, "<i4", blocks, 16)
        bounds = np.append(starts, size)
        if (np.diff(bounds) <= 0).any():
            return None
        begin = int(bounds[first])
        body = frame[begin : int(bounds[first + count])]
        table = (starts[first : first + count] - begin + 16 + 4 * count).astype("<i4").tobytes()
    header = struct.pack("<III", count * block, block, 16 + len(table) + len(body))
    return b"".join((frame[:4], header, table, body))


def _contiguous_target(out: np.ndarray, runs: list[Run], tile: Tile, shape: tuple[int, ...]) -> np.ndarray | None:
    """The part of `out` that a whole chunk can be decoded into directly, if it is one piece of memory."""
    whole = len(runs) == 1 and runs[0].count == shape[0] and out.shape[2:] == shape[2:]
    if not whole or (tile.y.stop - tile.y.start, tile.x.stop - tile.x.start) != shape[2:]:
        return None
    return out[runs[0].dst : runs[0].dst + shape[0]]


def _scratch_chunk(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A buffer for one decoded chunk, one a thread, kept for the next chunk of that shape."""
    chunk = getattr(_scratch, "chunk", None)
    if chunk is None or chunk.shape != shape or chunk.dtype != dtype:
        chunk = _scratch.chunk = np.empty(shape, dtype)
    return chunk


def _copy(chunk: np.ndarray, runs: list[Run], tile: Tile, out: np.ndarray) -> None:
    """Copy the wanted rows and window of a decoded chunk to their place in `out`."""
    source, target, x, to_x = chunk, out, tile.x, tile.to_x
    items = _COPY_BYTES // chunk.itemsize
    if not any(number % items for number in (x.start, x.stop, to_x.start, chunk.shape[-1], out.shape[-1])):
        wide = np.dtype(f"V{_COPY_BYTES}")
        source, target = chunk.view(wide), out.view(wide)
        x, to_x = (slice(part.start // items, part.stop // items) for part in (x, to_x))
    for run in runs:
        target[run.dst : run.dst + run.count, :, tile.to_y, to_x] = source[run.src : run.src + run.count, :, tile.y, x]
