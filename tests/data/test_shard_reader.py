"""The direct reader equals zarr-python, notices every damaged byte, and leaves unknown codecs to zarr-python."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import zarr

from eokit.data.shard_reader import ShardedArray, block_run, contextual_blosc
from eokit.data.shard_writer import join_frames
from eokit.data.store import Store
from eokit.errors import DataError
from tests.data.stores import NODATA, MemorySource, make_source, make_store

SHARD = "s2/data/c/0/0/0/0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("shards") / "toy.zarr", make_source((11, 20), size=64, bands=6))


@pytest.fixture
def copy(tmp_path, whole):
    """A copy of the store, to be damaged."""
    shutil.copytree(whole.path, tmp_path / "toy.zarr")
    return tmp_path / "toy.zarr"


@pytest.mark.parametrize("array", ["s2/data", "s1-asc/data", "labels/semantic", "labels/parcel"])
def test_all_rows_equal_those_of_zarr_python(whole, array):
    reference = zarr.open_group(str(whole.path), mode="r")[array]
    document = json.loads((whole.path / array / "zarr.json").read_text())
    found = ShardedArray(whole.path / array, document).read(np.arange(reference.shape[0]))
    np.testing.assert_array_equal(found, reference[:])


@pytest.mark.parametrize("rows", [[3], [8, 1, 8, 30], [0, 2, 4, 6], [7, 8, 9], list(range(8, 16)), []])
@pytest.mark.parametrize("window", [(0, 64, 0, 64), (0, 32, 32, 64), (5, 40, 31, 33)])
def test_rows_in_any_order_and_windows_equal_zarr_python(whole, rows, window):
    y0, y1, x0, x1 = window
    reference = zarr.open_group(str(whole.path), mode="r")["s2/data"]
    array = ShardedArray(whole.path / "s2/data", json.loads((whole.path / "s2/data/zarr.json").read_text()))
    expected = reference[:][rows, :, y0:y1, x0:x1]
    np.testing.assert_array_equal(array.read(np.array(rows, np.int64), window), expected)


def test_the_group_opens_consolidated_with_its_attributes(whole):
    group = zarr.open_consolidated(str(whole.path))
    assert group.attrs["dataset"] == "toy"
    assert group["s1-asc/data"].attrs["scale_factor"] == 1 / 256
    assert group["s2/data"].metadata.dimension_names == ("row", "band", "y", "x")


def test_xarray_decodes_nodata_and_scale(whole):
    xarray = pytest.importorskip("xarray")
    data = xarray.open_zarr(whole.path, group="s1-asc")["data"]
    stored = whole.read("s1-asc", 0)
    np.testing.assert_allclose(data[: len(stored)], np.where(stored == NODATA, np.nan, stored / 256))


def test_a_changed_byte_names_file_chunk_and_cure(copy):
    data = bytearray((copy / SHARD).read_bytes())
    data[100] ^= 1
    (copy / SHARD).write_bytes(data)
    with pytest.raises(DataError, match=rf"{SHARD}: chunk 0 does not match its checksum; .*prepare the store again"):
        Store.open(copy).read("s2", 0)


def test_every_single_changed_byte_is_noticed_or_not_read(copy):
    original = (copy / SHARD).read_bytes()
    expected = [Store.open(copy).read("s2", sample) for sample in range(2)]
    noticed = 0
    for position in np.random.default_rng(0).integers(0, len(original), 40):
        data = bytearray(original)
        data[position] ^= 0x40
        (copy / SHARD).write_bytes(data)
        try:
            found = [Store.open(copy).read("s2", sample) for sample in range(2)]
        except DataError:
            noticed += 1
            continue
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert noticed > 30


@pytest.mark.parametrize("left", [0, 3, 1000])
def test_a_cut_shard_is_noticed(copy, left):
    data = (copy / SHARD).read_bytes()
    (copy / SHARD).write_bytes(data[:left])
    with pytest.raises(DataError, match=rf"{SHARD}: the index at its end is damaged or cut off \({left} bytes\)"):
        Store.open(copy).read("s2", 0)


def test_a_chunk_with_a_right_checksum_but_no_blosc_is_refused(copy):
    import google_crc32c

    data = bytearray((copy / SHARD).read_bytes())
    count = 32 * 4  # chunk layers in time x tiles of a 64 x 64 patch
    index = np.frombuffer(bytes(data[-16 * count - 4 : -4]), "<u8").reshape(count, 2)
    start, length = (int(number) for number in index[1])
    junk = bytes(length - 4)
    data[start : start + length] = junk + google_crc32c.value(junk).to_bytes(4, "little")
    (copy / SHARD).write_bytes(data)
    with pytest.raises(DataError, match="chunk 1 does not decode"):
        Store.open(copy).read("s2", 0)


def test_a_shard_that_was_written_and_is_missing_is_damage(copy):
    (copy / SHARD).unlink()
    with pytest.raises(DataError, match=rf"{SHARD}: is missing; prepare the store again"):
        Store.open(copy).read("s2", 0)


def test_a_shard_that_was_never_written_is_fill(tmp_path):
    store = make_store(tmp_path / "dark.zarr", Dark(**vars(make_source((11, 20)))))
    assert not (store.path / "s2/data/c").exists()
    assert (store.read("s2", 0) == NODATA).all()
    assert list(store.shards.damage()) == []


class Dark(MemorySource):
    """A source whose s2 was never observed."""

    def read(self, entry, modality):
        values = super().read(entry, modality)
        return np.full_like(values, NODATA) if modality == "s2" else values


def test_the_list_names_every_shard_with_its_bytes(copy):
    there = {
        file.relative_to(copy).as_posix(): file.stat().st_size for file in copy.glob("**/c/*/**/0") if file.is_file()
    }
    there = {path: size for path, size in there.items() if path.startswith("labels/") or "/data/" in path}
    assert Store.open(copy).shards.sizes == there


def test_a_store_without_a_list_counts_a_missing_shard_as_fill(copy):
    root = json.loads((copy / "zarr.json").read_text())
    del root["attributes"]["shard_list"]
    (copy / "zarr.json").write_text(json.dumps(root))
    (copy / SHARD).unlink()
    (copy / "shards.json").unlink()
    assert (Store.open(copy).read("s2", 0) == NODATA).all()


def test_a_list_that_was_lost_is_damage_too(copy):
    (copy / "shards.json").unlink()
    (copy / SHARD).unlink()
    with pytest.raises(DataError, match=r"shards\.json: cannot be read"):
        Store.open(copy).read("s2", 0)


def test_other_codecs_are_read_through_zarr_python(tmp_path):
    values = np.arange(6 * 2 * 8 * 8, dtype=np.int16).reshape(6, 2, 8, 8)
    array = zarr.create_array(str(tmp_path), data=values, chunks=(2, 2, 8, 8), compressors=zarr.codecs.ZstdCodec())
    direct = ShardedArray(tmp_path, json.loads((tmp_path / "zarr.json").read_text()))
    np.testing.assert_array_equal(direct.read(np.array([4, 1]), (2, 5, 0, 8)), array[:][[4, 1], :, 2:5])


def test_shards_of_zarr_python_are_read_directly(tmp_path):
    values = np.random.default_rng(0).integers(0, 90, (20, 3, 30, 30), np.int16)
    codecs = zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle", typesize=2)
    zarr.create_array(str(tmp_path), data=values, chunks=(4, 3, 10, 15), shards=(20, 3, 30, 30), compressors=codecs)
    direct = ShardedArray(tmp_path, json.loads((tmp_path / "zarr.json").read_text()))
    direct._read_by_zarr = None
    np.testing.assert_array_equal(direct.read(np.arange(2, 19), (9, 30, 0, 16)), values[2:19, :, 9:, :16])


@pytest.mark.parametrize("noise", [0, 60, 30_000])
def test_any_run_of_blocks_decodes_alone(noise):
    blosc = contextual_blosc()
    rng = np.random.default_rng(0)
    chunk = (1000 + rng.integers(-noise, noise + 1, (8, 10, 32, 32))).astype(np.int16)
    frame = join_frames([blosc.compress(date, b"lz4", 5, blosc.SHUFFLE) for date in chunk])
    if frame is None:
        frame = blosc.compress(chunk, b"lz4", 5, blosc.SHUFFLE, 163840)
        assert noise == 30_000
        assert block_run(memoryview(frame), 0, 1) is not None
        return
    np.testing.assert_array_equal(np.frombuffer(blosc.decompress(frame), np.int16).reshape(chunk.shape), chunk)
    for first, count in ((0, 1), (3, 2), (7, 1), (0, 8)):
        part = np.empty_like(chunk[first : first + count])
        blosc.decompress(block_run(memoryview(frame), first, count), part)
        np.testing.assert_array_equal(part, chunk[first : first + count])


def test_an_index_that_another_thread_forgets_meanwhile_is_read_again(whole):
    class Forgetful(dict):
        """What a thread may see: a key that was there is gone when it is asked for."""

        def __contains__(self, key):
            found = super().__contains__(key)
            self.clear()
            return found

    direct = ShardedArray(whole.path / "s2/data", json.loads((whole.path / "s2/data/zarr.json").read_text()))
    expected = direct.read(np.array([0]))
    direct._indexes = Forgetful(direct._indexes)
    np.testing.assert_array_equal(direct.read(np.array([0])), expected)
