"""PLANTED: five sensors on 120 m, as npz shards and as AnySat's folders; masks, missing steps, species."""

import json
from typing import ClassVar

import numpy as np
import pytest

from eokit.data.formats.planted import ALOS_STEP, find, open_source
from eokit.data.formats.planted_species import SPECIES, class_number
from eokit.data.preprocessing import NODATA
from eokit.data.synthetic.planted import write_synthetic
from eokit.errors import DataError
from tests.data.formats.contract import FormatContract, cut, first, pytest_generate_tests  # noqa: F401


def shard(copy):
    return first(copy, "train/*.npz")


def change(path, **arrays):
    """Replace arrays of an npz file, or remove those that are None; a callable gets the array."""
    with np.load(path) as found:
        kept = dict(found)
    for name, array in arrays.items():
        kept[name] = array(kept[name]) if callable(array) else array
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})


def options(copy, **chosen):
    path = copy / "eokit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": chosen}))


def row(array, value, *at):
    """The array with `value` in the first patch, or at a place of it."""
    array = array.copy()
    array[(0, *at)] = value
    return array


def truncated_shard(copy):
    cut(shard(copy), 5000)


def no_npz_at_all(copy):
    shard(copy).write_bytes(b"<html>404</html>")


def pickled_arrays(copy):
    change(shard(copy), species=lambda found: found.astype(object))


def no_species(copy):
    change(shard(copy), species=None)


def unknown_species(copy):
    change(shard(copy), species=lambda found: row(found, b"Sequoia sempervirens"))


def series_of_another_shape(copy):
    change(shard(copy), s2=lambda found: found[:, :, :6])


def series_of_fewer_channels(copy):
    change(shard(copy), modis=lambda found: found[..., :6])


def no_mask(copy):
    change(shard(copy), l7_mask=None)


def mask_of_another_shape(copy):
    change(shard(copy), l7_mask=lambda found: found[:, 1:])


def timestamps_of_another_length(copy):
    change(shard(copy), alos_timestamps=lambda found: found[:, 1:])


def timestamps_in_text(copy):
    change(shard(copy), s1_timestamps=lambda found: np.full(found.shape, "2019-05-01"))


def timestamps_that_are_nan(copy):
    change(shard(copy), s1_timestamps=lambda found: row(found.astype(float), np.nan, 0))


def timestamps_in_nanoseconds(copy):
    change(shard(copy), s1_timestamps=lambda found: row(found, found[0] * 1_000_000))


class TestShards(FormatContract):
    name = "planted"
    damages: ClassVar = {
        truncated_shard: r"0000_d0002\.npz: cannot be read as an npz file",
        no_npz_at_all: r"0000_d0002\.npz: cannot be read as an npz file",
        pickled_arrays: r"species holds pickled Python objects",
        no_species: r"no array species of species; it has .*label_key",
        unknown_species: r"0000_d0002\.npz: unknown species 'Sequoia sempervirens'",
        series_of_another_shape: r"s2 has shape \(8, 6, 12, 10\), expected \(T, 12, 12, 10\)",
        series_of_fewer_channels: r"modis has shape \(60, 1, 1, 6\), expected \(T, 1, 1, 7\)",
        no_mask: r"no array l7_mask; it has alos, ",
        mask_of_another_shape: r"l7_mask has shape \(19, 4, 4, 6\), expected \(20, 4, 4, 6\)",
        timestamps_of_another_length: r"alos has \(3,\) timestamps for 4 steps",
        timestamps_in_text: r"s1_timestamps is str\d+, expected numbers",
        timestamps_that_are_nan: r"s1: a timestamp is NaN",
        timestamps_in_nanoseconds: r"s1: \d+ is no date of a satellite in ms",
    }

    def test_values_are_those_of_the_shard_where_the_mask_says_so(self, copy):
        change(shard(copy), s2_mask=lambda found: row(found, 0, 2, slice(3, 7)))
        source = open_source(copy)
        entry = source.entries[0]
        with np.load(shard(copy)) as found:
            values, mask = np.moveaxis(found["s2"][0], -1, 1), np.moveaxis(found["s2_mask"][0], -1, 1)
        stored = source.read(entry, "s2")
        np.testing.assert_array_equal(stored[mask == 1], values[mask == 1])
        assert (stored[mask == 0] == NODATA).all()
        assert (mask == 0).any()

    def test_one_masked_band_makes_the_pixel_nodata_in_all(self, copy):
        change(shard(copy), modis_mask=lambda found: row(found, 0, 3, 0, 0, 2))
        source = open_source(copy)
        assert (source.read(source.entries[0], "modis")[3] == NODATA).all()

    def test_values_that_are_nan_are_nodata_in_all_bands(self, copy):
        change(
            shard(copy), **{name: lambda found: row(found, np.nan, 0, 0, 0, 1) for name in ("s2", "s1", "l7", "alos")}
        )
        source = open_source(copy)
        for name, nodata in (("s2", NODATA), ("s1", NODATA), ("l7", 0), ("alos", NODATA)):
            assert (source.read(source.entries[0], name)[0, :, 0, 0] == nodata).all()

    def test_radar_keeps_two_polarisations_and_adds_their_difference(self, whole):
        source = open_source(whole)
        with np.load(shard(whole)) as found:
            s1, alos = found["s1"][0], found["alos"][0]
        for name, values, step in (("s1", s1, 1 / 256), ("alos", alos, ALOS_STEP)):
            stored = source.read(source.entries[0], name) * step
            expected = np.stack([values[..., 0], values[..., 1], values[..., 0] - values[..., 1]], axis=1)
            assert np.abs(stored - expected).max() <= step / 2 + 1e-4

    def test_pixels_are_as_large_as_those_of_the_sensors(self, store):
        sizes = {name: spec.gsd for name, spec in store.modalities.items()}
        assert sizes == {"s2": 10.0, "s1": 10.0, "l7": 30.0, "alos": 30.0, "modis": 250.0}

    def test_landsat_numbers_pass_unchanged(self, whole):
        source = open_source(whole)
        with np.load(shard(whole)) as found:
            values, mask = np.moveaxis(found["l7"][0], -1, 1), np.moveaxis(found["l7_mask"][0], -1, 1)
        stored = source.read(source.entries[0], "l7")
        np.testing.assert_array_equal(stored, np.where(mask == 1, values, 0))

    def test_days_are_those_of_the_timestamps_and_steps_without_one_are_left_out(self, copy):
        change(shard(copy), l7_timestamps=lambda found: row(found, 0, 4))
        source = open_source(copy)
        entry = source.entries[0]
        with np.load(shard(copy)) as found:
            expected = np.delete(found["l7_timestamps"][0] // 86_400_000, 4)
        np.testing.assert_array_equal(entry.days["l7"], expected)
        assert source.read(entry, "l7").shape == (19, 6, 4, 4)

    def test_steps_out_of_order_take_their_pixels_with_them(self, copy):
        names = ("s2", "s2_mask", "s2_timestamps")
        before = open_source(copy)
        expected = before.read(before.entries[0], "s2")
        change(shard(copy), **{name: lambda found: found[:, ::-1] for name in names})
        after = open_source(copy)
        np.testing.assert_array_equal(after.entries[0].days["s2"], before.entries[0].days["s2"])
        np.testing.assert_array_equal(after.read(after.entries[0], "s2"), expected)

    def test_a_modality_that_was_never_seen_has_no_dates(self, copy):
        change(shard(copy), alos_timestamps=lambda found: row(found, 0))
        source = open_source(copy)
        assert source.read(source.entries[0], "alos").shape == (0, 3, 4, 4)

    def test_radar_that_cannot_be_decibels_is_refused_and_can_be_declared_linear(self, copy):
        change(shard(copy), s1=lambda found: 10 ** (found / 10))
        source = open_source(copy)
        with pytest.raises(DataError, match=r'no radar value is below 0.*"radar": "linear"'):
            source.read(source.entries[0], "s1")
        options(copy, radar="linear")
        linear = open_source(copy)
        vv = linear.read(linear.entries[0], "s1")[:, 0] / 256
        with np.load(shard(copy)) as found:
            assert np.abs(vv - 10 * np.log10(found["s1"][0, ..., 0])).max() <= 1 / 512 + 1e-4

    def test_a_shard_may_name_its_species_otherwise(self, copy):
        for path in copy.glob("*/*.npz"):
            change(path, species=None, name=np.load(path)["species"])
        options(copy, label_key="name")
        assert len(open_source(copy).entries) == self.patches

    def test_a_shard_with_coordinates_says_where_its_patches_lie(self, copy):
        for path in copy.glob("*/*.npz"):
            count = len(np.load(path)["species"])
            change(path, lon=np.full(count, 7.5), lat=np.full(count, 47.0))
        centre = open_source(copy).entries[0].footprint.centroid
        assert (centre.x, centre.y) == (7.5, 47.0)

    def test_a_copy_without_a_sensor_is_prepared_and_it_is_noted(self, copy):
        for path in copy.glob("*/*.npz"):
            change(path, alos=None, alos_mask=None, alos_timestamps=None)
        source = open_source(copy)
        assert [one.name for one in source.spec.modalities] == ["s2", "s1", "l7", "modis"]
        assert any("no arrays of alos" in note for note in source.notes)


def patch(copy):
    return first(copy, "train/0*")


def missing_series(copy):
    first(patch(copy), "*_s2.npz").unlink()


def truncated_series(copy):
    cut(first(patch(copy), "*_s2.npz"))


def missing_timestamps(copy):
    first(patch(copy), "*_l7_timestamp.npz").unlink()


def class_beyond_the_species(copy):
    edit_labels(copy, 40)


def class_in_words(copy):
    edit_labels(copy, "Pinus taeda")


def edit_labels(copy, value):
    path = copy / "train/labels2.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {next(iter(table)): value}))


def labels_that_are_no_json(copy):
    (copy / "train/labels2.json").write_text("<html>404</html>")


class TestFolders(FormatContract):
    name = "planted"
    damages: ClassVar = {
        missing_series: r"_s2\.npz: no such file",
        truncated_series: r"_s2\.npz: cannot be read as an npz file",
        missing_timestamps: r"_l7_timestamp\.npz: no such file",
        class_beyond_the_species: r"class 40 of 0000000, expected 0 to 39",
        class_in_words: r"labels2\.json: 0000000 has the class 'Pinus taeda', expected a number",
        labels_that_are_no_json: r"labels2\.json: cannot be read as JSON",
    }

    @classmethod
    def make_copy(cls, path, seed=0):
        return write_synthetic(path, patches=cls.patches, seed=seed, shards=False)

    def test_both_forms_give_the_same_samples(self, whole, tmp_path):
        shards = open_source(write_synthetic(tmp_path / "shards", patches=self.patches))
        folders = open_source(whole)
        for one, other in zip(shards.entries, folders.entries, strict=True):
            assert one.fold == other.fold
            assert shards.read_labels(one) == folders.read_labels(other)
            for spec in shards.spec.modalities:
                np.testing.assert_array_equal(one.days[spec.name], other.days[spec.name])
                np.testing.assert_array_equal(shards.read(one, spec.name), folders.read(other, spec.name))


def test_records_of_tensorflow_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "train.tfrecord-00000-of-00001").write_bytes(b"x")
    assert find(tmp_path) is None
    with pytest.raises(DataError, match=r"TFRecords of PLANTED are not read.*convert them to shards"):
        open_source(tmp_path)


def test_species_are_known_whatever_their_capitals():
    assert len(set(SPECIES)) == 40
    assert class_number("pinus_TAEDA ") == SPECIES.index("Pinus taeda")
