"""The compiled decoder of blosc frames equals numcodecs and zarr-python, and refuses damaged ones."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.data import shard_reader
from eokit.data.shard_reader import ShardedArray, contextual_blosc
from eokit.data.shard_writer import join_frames
from eokit.data.store import Store
from tests.data.stores import make_source, make_store
from tests.sanitizers import CSRC, build_sanitized

decode_rows = pytest.importorskip("eokit._native", reason="the compiled libraries were not built").decode_rows

COMPRESSORS = ("lz4", "lz4hc")
SHUFFLES = (0, 1)
"""None and byte shuffle."""


def make_chunk(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, noise: int) -> np.ndarray:
    """A chunk with the noise asked for, in which some rows are constant: long matches beside incompressible ones."""
    values = 1000 + rng.integers(-noise, noise + 1, shape)
    values[rng.random(shape[0]) < 0.3] = 7
    return values.astype(dtype)


def compress(chunk: np.ndarray, compressor: str, level: int, shuffle: int, block: int) -> bytes:
    blosc = contextual_blosc()
    if block == 1:
        joined = join_frames([blosc.compress(row, compressor.encode(), level, shuffle) for row in chunk])
        if joined is not None:
            return joined
    return blosc.compress(chunk, compressor.encode(), level, shuffle, block if block > 1 else 0)


@st.composite
def cuts(draw, length):
    first = draw(st.integers(0, length))
    return first, draw(st.integers(first, length))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_rows_and_window_of_any_frame_equal_numcodecs(data):
    draw = data.draw
    shape = tuple(draw(st.integers(1, high)) for high in (9, 4, 40, 40))
    dtype = draw(st.sampled_from(["u1", "i2", "u2", "i4", "f4"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    chunk = make_chunk(rng, shape, dtype, draw(st.sampled_from([0, 3, 100, 30_000])))
    frames = []
    for _ in range(2):
        settings_of_frame = (st.sampled_from(COMPRESSORS), st.integers(0, 9), st.sampled_from(SHUFFLES))
        block = draw(st.sampled_from([0, 1, 256, 4096, 100_000]))
        frames.append(compress(chunk, *(draw(one) for one in settings_of_frame), block))
        np.testing.assert_array_equal(np.frombuffer(contextual_blosc().decompress(frames[-1]), dtype), chunk.ravel())
    (y0, y1), (x0, x1) = draw(cuts(shape[2])), draw(cuts(shape[3]))
    rows = draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=12))
    runs = [(src, dst, 1) for dst, src in enumerate(rows)]
    out = np.full((len(rows), shape[1], y1 - y0 + 3, 2 * (x1 - x0) + 1), 99, dtype)
    known = decode_rows(frames, shape, runs, (y0, y1, 2), [(x0, x1, 0), (x0, x1, x1 - x0 + 1)], out)
    expected = np.full_like(out, 99)
    for at in (0, x1 - x0 + 1):
        expected[:, :, 2 : 2 + y1 - y0, at : at + x1 - x0] = chunk[rows][:, :, y0:y1, x0:x1]
    assert known
    np.testing.assert_array_equal(out, expected)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_reader_equals_zarr_python_without_numcodecs(tmp_path_factory, data):
    draw = data.draw
    path = tmp_path_factory.mktemp("array")
    dtype = draw(st.sampled_from(["uint8", "int16", "float32"]))
    chunk = (draw(st.sampled_from([1, 4, 8])), 2, draw(st.sampled_from([8, 20])), draw(st.sampled_from([8, 32])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = make_chunk(rng, (16, 2, 40, 33), dtype, draw(st.sampled_from([2, 60, 30_000])))
    codec = zarr.codecs.BloscCodec(
        cname=draw(st.sampled_from(COMPRESSORS)),
        clevel=draw(st.integers(0, 9)),
        shuffle=draw(st.sampled_from(["shuffle", "noshuffle"])),
        typesize=values.itemsize,
    )
    shards = (16, 2, -(-40 // chunk[2]) * chunk[2], -(-33 // chunk[3]) * chunk[3])
    array = zarr.create_array(
        str(path), shape=values.shape, dtype=dtype, chunks=chunk, shards=shards, compressors=codec
    )
    array[:] = values
    (y0, y1), (x0, x1) = draw(cuts(40)), draw(cuts(33))
    rows = np.array(draw(st.lists(st.integers(0, 15), max_size=20)), np.int64)
    direct = ShardedArray(path, json.loads((path / "zarr.json").read_text()))
    direct._read_by_zarr = direct._decode_by_numcodecs = None
    np.testing.assert_array_equal(direct.read(rows, (y0, y1, x0, x1)), array[:][rows][:, :, y0:y1, x0:x1])
    shutil.rmtree(path)


@pytest.mark.parametrize("window", [None, (0, 32, 32, 64), (5, 40, 31, 33)])
def test_the_reader_gives_the_same_without_the_native_decoder(tmp_path, monkeypatch, window):
    store = make_store(tmp_path / "toy.zarr", make_source((11, 20), size=64, bands=6))
    arguments = [(name, sample, dates) for name in ("s2", "s1-asc") for sample in (0, 1) for dates in (None, [5, 1, 2])]
    native = [store.read(*one, window=window) for one in arguments]
    monkeypatch.setattr(shard_reader, "_decode_rows", None)
    for one, found in zip(arguments, native, strict=True):
        np.testing.assert_array_equal(Store.open(store.path).read(*one, window=window), found)


@pytest.mark.parametrize(("compressor", "shuffle"), [("zstd", 1), ("blosclz", 1), ("zlib", 0), ("lz4", 2)])
def test_an_unknown_frame_is_left_alone(compressor, shuffle):
    chunk = make_chunk(np.random.default_rng(0), (4, 2, 16, 16), "i2", 5)
    frame = contextual_blosc().compress(chunk, compressor.encode(), 5, shuffle)
    out = np.full_like(chunk, 99)
    assert not decode_rows([frame], chunk.shape, [(0, 0, 4)], (0, 16, 0), [(0, 16, 0)], out)
    assert (out == 99).all()


@pytest.mark.parametrize("compressor", ["zstd", "blosclz"])
def test_the_reader_leaves_unknown_frames_to_numcodecs(tmp_path, compressor):
    values = make_chunk(np.random.default_rng(0), (8, 2, 16, 16), "int16", 50)
    codec = zarr.codecs.BloscCodec(cname=compressor, shuffle="shuffle", typesize=2)
    zarr.create_array(str(tmp_path), data=values, chunks=(4, 2, 8, 8), shards=(8, 2, 16, 16), compressors=codec)
    direct = ShardedArray(tmp_path, json.loads((tmp_path / "zarr.json").read_text()))
    direct._read_by_zarr = None
    np.testing.assert_array_equal(direct.read(np.array([6, 1]), (2, 13, 0, 16)), values[[6, 1], :, 2:13])


CHUNK = (4, 2, 16, 16)
GOOD = {"runs": [(0, 0, 4)], "down": (0, 16, 0), "across": [(0, 16, 0)], "chunk": CHUNK}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"runs": [(1, 0, 4)]}, "rows outside the chunk"),
        ({"runs": [(0, -1, 4)]}, "rows outside the output"),
        ({"runs": [(0, 2**62, 4)]}, "rows outside the output"),
        ({"runs": [(0, 0, 5)]}, "more rows than"),
        ({"runs": [(0, 0)]}, r"not \(n, 3\)"),
        ({"down": (0, 17, 0)}, "window outside the chunk"),
        ({"down": (0, 16, 1)}, "window outside the output"),
        ({"across": [(-1, 16, 0)]}, "window outside the chunk"),
        ({"across": [(3, 2, 0)]}, "window outside the chunk"),
        ({"across": []}, "not one part across for each frame"),
        ({"chunk": (4, 3, 16, 16)}, "different channels"),
        ({"chunk": (8, 2, 16, 16)}, "holds 4096 bytes, expected 8192"),
        ({"chunk": (2**40, 2, 2**40, 16)}, "too large"),
        ({"chunk": (4, 0, 16, 16)}, "without pixels"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong, message):
    frame = contextual_blosc().compress(np.zeros(CHUNK, np.int16), b"lz4", 5, 1)
    with pytest.raises(ValueError, match=message):
        decode_rows([frame], **GOOD | wrong, out=np.empty(CHUNK, np.int16))


@pytest.mark.parametrize("out", [np.empty((4, 2, 16, 32), np.int16)[..., ::2], np.empty((8, 16, 16), np.int16)])
def test_an_output_that_is_not_contiguous_is_refused(out):
    frame = contextual_blosc().compress(np.zeros(CHUNK, np.int16), b"lz4", 5, 1)
    with pytest.raises(ValueError, match="not a contiguous array of four axes"):
        decode_rows([frame], **GOOD, out=out)


def seeds() -> list[tuple[np.ndarray, bytes]]:
    """Chunks and frames of every kind that the decoder knows."""
    rng = np.random.default_rng(0)
    found = []
    for dtype in ("u1", "i2", "i4"):
        for noise in (0, 3, 60, 30_000):
            for shuffle in SHUFFLES:
                for block in (0, 1, 1024):
                    chunk = make_chunk(rng, (4, 2, 16, 24), dtype, noise)
                    found.append((chunk, compress(chunk, "lz4hc", 5, shuffle, block)))
    return found


def test_damaged_frames_are_refused_or_decoded_but_never_crash():
    rng = np.random.default_rng(0)
    refused = 0
    for chunk, frame in seeds():
        out = np.empty_like(chunk)
        for _ in range(100):
            damaged = bytearray(frame)
            for _ in range(rng.integers(1, 5)):
                at = rng.integers(0, min(64, len(frame)) if rng.random() < 0.5 else len(frame))
                damaged[at] = rng.integers(0, 256)
            if rng.random() < 0.2:
                del damaged[rng.integers(0, len(frame)) :]
            if rng.random() < 0.7:
                damaged[12:16] = len(damaged).to_bytes(4, "little")
            try:
                decode_rows([damaged], chunk.shape, [(0, 0, 4)], (0, 16, 0), [(0, 24, 0)], out)
            except ValueError:
                refused += 1
    assert refused > 3000


def test_the_decoder_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", "import sys, eokit._native; assert 'torch' not in sys.modules"])
    assert done.returncode == 0


@pytest.mark.slow
def test_random_damage_never_makes_the_decoder_leave_its_memory(tmp_path):
    sources = [Path(__file__).with_name("fuzz_decoder.cpp"), *sorted((CSRC / "data").glob("*.cpp"))]
    fuzzer = build_sanitized(sources, tmp_path)
    with (tmp_path / "seeds").open("wb") as file:
        for chunk, frame in seeds():
            file.write(struct.pack("<6I", chunk.itemsize, *chunk.shape, len(frame)) + frame)
    done = subprocess.run([fuzzer, tmp_path / "seeds", "20000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = re.fullmatch(r"(\d+) refused, (\d+) not known, (\d+) decoded\n", done.stdout)
    assert told
    assert sum(map(int, told.groups())) == 20_000
    assert min(map(int, told.groups())) > 100
