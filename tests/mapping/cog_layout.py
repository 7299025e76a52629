"""Reads the skeleton of a TIFF by itself, to see whether a map is laid out as a Cloud-Optimized GeoTIFF."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, TILE_WIDTH, TILE_OFFSETS, TILE_SIZES = 256, 257, 322, 324, 325
KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 11: "f", 12: "d", 16: "Q"}
"""TIFF field type -> struct code; 5, a rational, is two 32-bit numbers read as one."""


@dataclass(frozen=True)
class Directory:
    """One image of a TIFF: where its directory begins, its width and height, where its tiles begin and end."""

    offset: int
    size: tuple[int, int]
    tile_width: int | None
    tiles: tuple[tuple[int, int], ...]


def read_directories(path: Path) -> list[Directory]:
    """The directories of a little-endian TIFF (no BigTIFF), in the order of their chain."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    found, (offset,) = [], struct.unpack_from("<I", data, 4)
    while offset:
        count = struct.unpack_from("<H", data, offset)[0]
        fields = dict(_field(data, offset + 2 + 12 * number) for number in range(count))
        starts, sizes = fields.get(TILE_OFFSETS, ()), fields.get(TILE_SIZES, ())
        spans = tuple((start, start + size) for start, size in zip(starts, sizes, strict=True) if size)
        tile_width = fields[TILE_WIDTH][0] if TILE_WIDTH in fields else None
        found.append(Directory(offset, (fields[WIDTH][0], fields[HEIGHT][0]), tile_width, spans))
        offset = struct.unpack_from("<I", data, offset + 2 + 12 * count)[0]
    return found


def _field(data: bytes, at: int) -> tuple[int, tuple]:
    tag, kind, count = struct.unpack_from("<HHI", data, at)
    code = f"<{count}{KINDS[kind]}"
    inside = at + 8 if struct.calcsize(code) <= 4 else struct.unpack_from("<I", data, at + 8)[0]
    return tag, struct.unpack_from(code, data, inside)


def assert_cloud_optimized(path: Path) -> None:
    """All directories at the front, full size first; tiles from the smallest overview to the full image."""
    full, *overviews = images = read_directories(path)
    assert all(one.tile_width for one in images), "strips, expected tiles"
    sizes = [one.size for one in images]
    assert sizes == sorted(sizes, reverse=True), f"sizes {sizes}, expected the full image first, then ever smaller"
    assert max(images[-1].size) <= full.tile_width, "the smallest overview has more than one tile"
    assert [one.offset for one in images] == sorted(one.offset for one in images)
    data_begins = min(start for one in images for start, _ in one.tiles)
    assert images[-1].offset < data_begins, "a directory lies behind pixels"
    ends = 0
    for one in reversed(images):
        for start, end in one.tiles:
            assert start >= ends, f"the tiles of the {one.size} image are out of order"
            ends = end
    assert b"LAYOUT=IFDS_BEFORE_DATA" in path.read_bytes()[:200]
    assert len(overviews) == len({one.size for one in overviews})
