"""Reads chosen rows and a window of a sharded Zarr v3 array straight from its shard files.

zarr-python is the reference (a test holds them equal) and the fallback for codecs not known here. A reader keeps no
file open, so it can be pickled and forked; what it keeps are the shard indexes it has seen. Called by `Store`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eokit.data.shard_list import CURE, ShardList
from eokit.errors import DataError

try:
    from eokit._native import decode_rows as _decode_rows
except ImportError:  # `eokit doctor` says why there are no compiled libraries
    _decode_rows = None

EMPTY = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that holds nothing but the fill value."""

KEPT_INDEXES = 4096
"""Shard indexes remembered by one reader (8 KiB each for 512 chunks)."""

_COPY_BYTES = 64
"""Lines of pixels that are multiples of this are copied as items of that size: numpy is a third faster at it."""

_scratch = threading.local()


class Run(NamedTuple):
    """`length` consecutive rows: from row `src` of a chunk to row `dst` of the output."""

    src: int
    dst: int
    length: int


class Cut(NamedTuple):
    """Along one axis: the part `at` of chunk `number` that a window wants, and where it goes in the output."""

    number: int
    at: slice
    to: slice


class Strip(NamedTuple):
    """Chunks of one layer that lie side by side: number, offset and length of each, and what is wanted of them."""

    chunks: list[tuple[int, int, int]]
    down: Cut
    across: list[Cut]


class ShardedArray:
    """One array (rows, [C,] H, W) of a store; `read` is all it does."""

    def __init__(self, folder: Path, metadata: dict[str, Any], shards: ShardList | None = None) -> None:
        """shards: the files that were written; one that is missing counts as fill values where this is not known."""
        self.folder, self._shards = folder, shards
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
            return self._read_by_zarr(rows, slice(y0, y1), slice(x0, x1))
        middle = self.shape[1:-2]
        # Three-axis label arrays are read as one band.
        out = np.empty((len(rows), prod(middle), y1 - y0, x1 - x0), self.dtype)
        tiles = (_cuts(y0, y1, self._chunk[-2]), _cuts(x0, x1, self._chunk[-1]))
        per_shard = self._grid[0]
        layers = _runs_by_chunk(np.asarray(rows, np.int64), self._chunk[0])
        for shard, of_shard in groupby(layers, lambda layer: layer[0] // per_shard):
            with self._opened(shard) as file:
                for chunk, runs in of_shard:
                    self._read_layer(file, shard, chunk % per_shard, runs, tiles, out)
        return out.reshape(len(rows), *middle, y1 - y0, x1 - x0)

    def _read_layer(
        self, file: int, shard: int, depth: int, runs: list[Run], tiles: tuple[list[Cut], list[Cut]], out: np.ndarray
    ) -> None:
        """All chunks of one layer in time: fetch, check and decode a row of them, then put the row in place."""
        down, across = tiles
        first = depth * prod(self._grid[1:])
        numbers = [first + row.number * self._grid[-1] + column.number for row in down for column in across]
        places = self._index(file, shard)[numbers].tolist() if file >= 0 else [(EMPTY, EMPTY)] * len(numbers)
        _announce(file, places)
        chunks = [(number, *place) for number, place in zip(numbers, places, strict=True)]
        for row in down:
            strip = Strip(chunks[: len(across)], row, across)
            del chunks[: len(across)]
            # The compiled decoder writes pixels straight into `out`; what it does not take is left to numcodecs.
            if _decode_rows is None or not self._decode_natively(file, shard, strip, runs, out):
                self._decode_by_numcodecs(file, shard, strip, runs, out)

    def _decode_natively(self, file: int, shard: int, strip: Strip, runs: list[Run], out: np.ndarray) -> bool:
        """Whether `eokit._native` knew the codec and found nothing damaged; then the strip is in `out`."""
        frames, columns = [], []
        for (number, offset, length), column in zip(strip.chunks, strip.across, strict=True):
            if offset == EMPTY:
                for _, dst, count in runs:
                    out[dst : dst + count, :, strip.down.to, column.to] = self._fill
            else:
                frames.append(self._fetch(file, shard, number, offset, length))
                columns.append((column.at.start, column.at.stop, column.to.start))
        chunk = (self._chunk[0], out.shape[1], *self._chunk[-2:])
        down = (strip.down.at.start, strip.down.at.stop, strip.down.to.start)
        try:
            return _decode_rows(frames, chunk, runs, down, columns, out)
        except ValueError:  # a damaged chunk: numcodecs finds out which
            return False

    def _decode_by_numcodecs(self, file: int, shard: int, strip: Strip, runs: list[Run], out: np.ndarray) -> None:
        """Decode whole chunks, then copy what is wanted of them."""
        shape = (len(strip.across), self._chunk[0], out.shape[1], *self._chunk[-2:])
        whole = _contiguous_target(out, runs, strip.down, shape)
        decoded = _scratch_row(shape, self.dtype) if whole is None else whole
        for chunk, (number, offset, length) in zip(decoded, strip.chunks, strict=True):
            if offset == EMPTY:
                chunk[...] = self._fill
                continue
            try:
                _decode(self._fetch(file, shard, number, offset, length), runs, chunk)
            except (RuntimeError, ValueError, struct.error) as error:
                raise self._damaged(shard, number, f"does not decode ({error})") from None
        if whole is None:
            _copy(decoded, runs, strip, out)

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

    @contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """The open file of `shard`; -1 where none was written (a shard of fill values only)."""
        try:
            file = os.open(self._file(shard), os.O_RDONLY)
        except FileNotFoundError:
            if self._shards is not None and self._shards.has(self._file(shard)):
                raise DataError(f"{self._file(shard)}: is missing; {CURE}") from None
            yield -1
            return
        except OSError as error:
            raise DataError(f"{self._file(shard)}: cannot be read ({error.strerror})") from None
        try:
            yield file
        finally:
            os.close(file)

    def _index(self, file: int, shard: int) -> np.ndarray:
        """(chunks of a shard, 2) uint64: offset and length of every chunk, from the end of the file."""
        import google_crc32c

        # Asked once: another thread may clear the indexes between a question and an answer.
        if (known := self._indexes.get(shard)) is not None:
            return known
        count = prod(self._grid)
        size = os.fstat(file).st_size
        data = os.pread(file, 16 * count + 4, max(size - 16 * count - 4, 0))
        if len(data) != 16 * count + 4 or google_crc32c.value(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise DataError(f"{self._file(shard)}: the index at its end is damaged or cut off ({size} bytes); {CURE}")
        index = np.frombuffer(data, "<u8", 2 * count).reshape(count, 2)
        full = index[index[:, 0] != EMPTY]
        if len(full) and int(full.sum(1).max()) > size:
            raise DataError(f"{self._file(shard)}: {size} bytes, but its index points beyond; {CURE}")
        if len(self._indexes) >= KEPT_INDEXES:
            self._indexes.clear()
        self._indexes[shard] = index
        return index

    def _file(self, shard: int) -> Path:
        return self.folder.joinpath("c", str(shard), *["0"] * (len(self.shape) - 1))

    def _damaged(self, shard: int, number: int, what: str) -> DataError:
        return DataError(f"{self._file(shard)}: chunk {number} {what}; {CURE}")

    def _read_by_zarr(self, rows: np.ndarray, *window: slice) -> np.ndarray:
        import zarr

        array = zarr.open_array(str(self.folder), mode="r", zarr_format=3)
        everything = (slice(None),) * (len(self.shape) - 3)
        return np.asarray(array.oindex[(np.asarray(rows), *everything, *window)])


@cache
def contextual_blosc() -> Any:
    """`numcodecs.blosc` without its thread pool, as zarr-python sets it too: safe in threads and forked processes."""
    from numcodecs import blosc

    blosc.use_threads = False
    return blosc


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
            if last and (last.src + last.length, last.dst + last.length) == (src, dst):
                runs[-1] = last._replace(length=last.length + 1)
            else:
                runs.append(Run(src, dst, 1))
        yield int(chunk), runs


def _cuts(start: int, stop: int, edge: int) -> list[Cut]:
    """How start..stop falls on chunks of `edge`."""
    cuts = []
    for number in range(start // edge, (stop + edge - 1) // edge):
        first, last = max(start, number * edge), min(stop, (number + 1) * edge)
        at = slice(first - number * edge, last - number * edge)
        cuts.append(Cut(number, at, slice(first - start, last - start)))
    return cuts


def _announce(file: int, places: list[tuple[int, int]]) -> None:
    """Tell the kernel which bytes come next, adjacent chunks as one range: one request each on a cold disk."""
    if not hasattr(os, "posix_fadvise"):
        return
    start = end = 0
    for offset, length in sorted(place for place in places if place[0] != EMPTY):
        if offset != end:
            if end:
                os.posix_fadvise(file, start, end - start, os.POSIX_FADV_WILLNEED)
            start = offset
        end = offset + length
    if end:
        os.posix_fadvise(file, start, end - start, os.POSIX_FADV_WILLNEED)


def _decode(frame: memoryview, runs: list[Run], chunk: np.ndarray) -> None:
    """Decode the rows of `runs` into their place in `chunk` (rows, C, h, w): only these where a row is whole blocks."""
    blosc = contextual_blosc()

    rows = len(chunk)
    total, block, _ = struct.unpack_from("<III", frame, 4)
    if total != chunk.nbytes:
        raise ValueError(f"holds {total} bytes, expected {chunk.nbytes}")
    row_bytes = total // rows
    if sum(run.length for run in runs) >= rows or block == 0 or row_bytes % block:
        blosc.decompress(frame, chunk)
        return
    per_row = row_bytes // block
    for run in runs:
        part = block_run(frame, run.src * per_row, run.length * per_row)
        if part is None:
            blosc.decompress(frame, chunk)
            return
        blosc.decompress(part, chunk[run.src : run.src + run.length])


def block_run(frame: memoryview, first: int, count: int) -> bytes | None:
    """A blosc frame of `count` blocks of `frame`; None where its blocks are not stored in order.

    Format 2 of c-blosc 1 (README_CHUNK_FORMAT.rst): version, version of the compressor, flags, typesize, then
    uint32 bytes, block size, compressed bytes; the int32 start of every block, the blocks. Flag 2: plain copy.
    """
    total, block, size = struct.unpack_from("<III", frame, 4)
    last = first + count
    if frame[2] & 2:
        starts, body = (), frame[16 + first * block : 16 + last * block]
    else:
        bounds = (*struct.unpack_from(f"<{total // block}i", frame, 16), size)
        if list(bounds) != sorted(set(bounds)):
            return None
        shift = bounds[first] - 16 - 4 * count
        starts, body = tuple(start - shift for start in bounds[first:last]), frame[bounds[first] : bounds[last]]
    table = struct.pack(f"<III{len(starts)}i", count * block, block, 16 + 4 * len(starts) + len(body), *starts)
    return b"".join((frame[:4], table, body))


def _contiguous_target(out: np.ndarray, runs: list[Run], row: Cut, shape: tuple[int, ...]) -> np.ndarray | None:
    """The part of `out` (1, rows, C, h, w) that a whole chunk can be decoded into directly, if it is one piece."""
    one = shape[0] == 1 and len(runs) == 1 and runs[0].length == shape[1] and out.shape[1:] == shape[2:]
    return out[None, runs[0].dst : runs[0].dst + shape[1]] if one and row.at == slice(0, shape[3]) else None


def _scratch_row(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A buffer for a row of decoded chunks, one a thread, kept for the next row of that shape."""
    chunks = getattr(_scratch, "chunks", None)
    if chunks is None or chunks.shape != shape or chunks.dtype != dtype:
        chunks = _scratch.chunks = np.empty(shape, dtype)
    return chunks


def _copy(chunks: np.ndarray, runs: list[Run], strip: Strip, out: np.ndarray) -> None:
    """Copy the wanted part of a row of decoded chunks (columns, rows, C, h, w) to its place in `out`."""
    columns, width, row = len(chunks), chunks.shape[-1], strip.down
    if out.shape[-1] != columns * width:
        for chunk, column in zip(chunks, strip.across, strict=True):
            for src, dst, count in runs:
                out[dst : dst + count, :, row.to, column.to] = chunk[src : src + count, :, row.at, column.at]
        return
    # Whole chunks side by side: written line by line, which is half as fast again as chunk by chunk.
    items = _COPY_BYTES // chunks.itemsize
    if width % items == 0:
        wide = np.dtype(f"V{_COPY_BYTES}")
        chunks, out, width = chunks.view(wide), out.view(wide), width // items
    lines = out.reshape(*out.shape[:3], columns, width)
    for src, dst, count in runs:
        lines[dst : dst + count, :, row.to] = chunks[:, src : src + count, :, row.at].transpose(1, 2, 3, 0, 4)
