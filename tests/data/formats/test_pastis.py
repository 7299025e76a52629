"""PASTIS as published, in small: what the reader hands to the store writer."""

import json
import pickle

import numpy as np
import pytest

from eokit.data.formats import pastis
from eokit.data.formats.pastis import SPOT_DAY, find, open_source
from eokit.data.formats.pastis_metadata import parse_dates
from eokit.data.formats.samples import spread
from eokit.data.formats.values import store_decibel, store_reflectance
from eokit.data.preprocessing import NODATA
from eokit.errors import DataError, UsageError
from tests.data.formats import trees


@pytest.fixture
def tree(tmp_path):
    return trees.make_tree(tmp_path / "PASTIS-R")


def entry_of(source, id):
    return next(entry for entry in source.entries if entry.id == str(id))


def day(text):
    return int(np.datetime64(text).astype("datetime64[D]").astype(int))


def test_modalities_are_those_found_on_disk(tree):
    assert [one.name for one in open_source(tree).spec.modalities] == ["s2", "s1-asc", "s1-des"]
    for folder in ("DATA_S1A", "DATA_S1D"):
        (tree / folder).rename(tree / f"_{folder}")
    assert [one.name for one in open_source(tree).spec.modalities] == ["s2"]


def test_the_title_says_which_of_the_three_it_is(tree, monkeypatch):
    monkeypatch.setattr(pastis, "PATCHES", len(trees.IDS))
    assert open_source(tree).spec.title == "PASTIS-R"
    assert open_source(tree, modalities=["s2"]).spec.title == "PASTIS"
    assert open_source(tree, limit=2).spec.licence == pastis.INFO.licence
    trees.add_spot(tree)
    assert open_source(tree).spec.title == "PASTIS-HD"


def test_other_data_in_the_layout_are_not_called_pastis(tree):
    spec = open_source(tree).spec
    assert (spec.dataset, spec.title) == ("pastis-layout", "Other data in the layout of PASTIS-R")
    assert spec.licence == spec.citation == "not known: metadata.geojson does not say"


def test_metadata_say_whose_the_data_are(tree):
    told = {"title": "Crops of Flanders", "licence": "MIT", "citation": "Nobody, 2024"}
    trees.write_metadata(tree, trees.read_metadata(tree) | told)
    spec = open_source(tree).spec
    assert {key: getattr(spec, key) for key in told} == told


def test_as_many_patches_as_pastis_with_a_title_of_their_own_keep_it(tree, monkeypatch):
    monkeypatch.setattr(pastis, "PATCHES", len(trees.IDS))
    trees.write_metadata(tree, trees.read_metadata(tree) | {"title": "Crops of Flanders"})
    assert open_source(tree).spec.title == "Crops of Flanders"


def test_a_modality_that_is_not_there_names_those_that_are(tree):
    with pytest.raises(DataError, match=r"DATA_SPOT.*there are s2, s1-asc, s1-des"):
        open_source(tree, modalities=["spot"])
    with pytest.raises(UsageError, match="unknown modality 's3'"):
        open_source(tree, modalities=["s3"])


def test_s2_values_pass_unchanged(tree):
    source = open_source(tree)
    stored = source.read(entry_of(source, 10001), "s2")
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, np.load(trees.path_of(tree, "s2", 10001)))


def test_s1_is_stored_to_one_512th_of_a_decibel(tree):
    source = open_source(tree)
    spec = source.spec.modalities[1]
    stored = source.read(entry_of(source, 10000), "s1-asc")
    published = np.load(trees.path_of(tree, "s1-asc", 10000)).astype(np.float64)
    error = np.abs(stored * spec.scale - published)
    assert stored.dtype == np.int16
    assert error.max() <= 1 / 512
    assert error[np.abs(published) >= 4].max() == 0, "the float16 grid from 4 dB up is a multiple of 1/256 dB"


@pytest.mark.parametrize("value", [-10000, -12000, np.nan, -np.inf])
def test_one_bad_band_makes_the_whole_pixel_nodata(value):
    array = np.full((3, 10, 4, 4), 100.0, np.float32)
    array[1, 7, 2, 3] = value
    stored, seen = store_reflectance(array)
    assert seen
    assert (stored[1, :, 2, 3] == NODATA).all()
    assert (stored == NODATA).sum() == 10


def test_negative_reflectance_above_the_nodata_value_is_kept():
    array = np.full((1, 10, 2, 2), -9999, np.int16)
    stored, _ = store_reflectance(array)
    assert (stored == -9999).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_reflectance_beyond_int16_is_cut_to_it(dtype):
    stored, _ = store_reflectance(np.full((1, 10, 2, 2), 40000, dtype))
    assert (stored == 32767).all()


def test_nan_decibel_is_nodata_in_all_bands():
    array = np.full((2, 3, 4, 4), -12.5, np.float16)
    array[0, 2, 1, 1] = np.nan
    stored, _ = store_decibel(array)
    assert (stored[0, :, 1, 1] == NODATA).all()
    assert (stored == NODATA).sum() == 3


def test_extreme_decibel_never_looks_like_nodata():
    array = np.full((1, 3, 2, 2), -500, np.float32)
    array[0, :, 0, 0] = np.nan
    stored, _ = store_decibel(array)
    assert (stored[0, :, 1, 1] == -32767).all()


@pytest.mark.parametrize(
    "table",
    [
        {"0": 20180917, "1": 20180927, "2": 20181007},
        {"0": "20180917", "1": "20180927", "2": "20181007"},
        {"2": 20181007, "0": 20180917, "1": 20180927},
        {0: 20180917, 1: 20180927, 2: 20181007},
        json.dumps({"0": 20180917, "1": 20180927, "2": 20181007}),
        "{'0': 20180917, '1': 20180927, '2': 20181007}",
        "{'0': '20180917', '1': '20180927', '2': '20181007'}",
    ],
)
def test_dates_come_as_a_dict_or_its_string(table):
    assert parse_dates(table).tolist() == [day("2018-09-17"), day("2018-09-27"), day("2018-10-07")]


def test_date_keys_are_sorted_as_numbers():
    table = {str(number): 20180901 + number for number in range(12)}
    assert np.all(np.diff(parse_dates(dict(sorted(table.items())))) == 1)


def test_unsorted_dates_take_their_pixels_with_them(tree):
    dates = {"0": 20180920, "1": 20180905, "2": 20180910, "3": 20180905, "4": 20181001, "5": 20181002}
    trees.edit(tree, 10000, **{"dates-S2": dates})
    source = open_source(tree)
    entry = entry_of(source, 10000)
    published = np.load(trees.path_of(tree, "s2", 10000))
    assert np.all(np.diff(entry.days["s2"]) >= 0)
    np.testing.assert_array_equal(source.read(entry, "s2"), published[[1, 3, 2, 0, 4, 5]])


def test_two_acquisitions_of_one_day_are_both_kept(tree):
    trees.edit(tree, 10000, **{"dates-S2": {str(number): 20180905 for number in range(6)}})
    source = open_source(tree)
    entry = entry_of(source, 10000)
    assert len(entry.days["s2"]) == 6
    np.testing.assert_array_equal(source.read(entry, "s2"), np.load(trees.path_of(tree, "s2", 10000)))


@pytest.mark.parametrize(("size", "count"), [(8, 1), (13, 4), (16, 9)])
def test_any_patch_size_and_any_number_of_dates(tmp_path, size, count):
    source = open_source(trees.make_tree(tmp_path / "tree", size=size, dates={"s2": count}))
    assert source.read(source.entries[0], "s2").shape == (count, 10, size, size)


def test_patches_may_differ_in_their_number_of_dates(tree):
    trees.save(tree, "s2", 10001, np.ones((9, 10, 8, 8), np.int16))
    trees.edit(tree, 10001, **{"dates-S2": trees.season(9)})
    source = open_source(tree)
    assert [len(entry.days["s2"]) for entry in source.entries] == [6, 9, 6, 6]


@pytest.mark.parametrize(("id", "fold"), [("10000", "2"), (10000, 2), (10000.0, 2.0)])
def test_ids_and_folds_may_be_numbers_or_text(tree, id, fold):
    trees.edit(tree, 10000, ID_PATCH=id, Fold=fold)
    entry = open_source(tree).entries[0]
    assert (entry.id, entry.fold) == ("10000", 2)


def test_labels_are_channel_0_of_the_target_and_the_parcel_and_instance_ids(tree):
    source = open_source(tree)
    labels = source.read_labels(source.entries[0])
    np.testing.assert_array_equal(labels["semantic"], np.load(tree / "ANNOTATIONS/TARGET_10000.npy")[0])
    np.testing.assert_array_equal(labels["parcel"], np.load(tree / "ANNOTATIONS/ParcelIDs_10000.npy"))
    np.testing.assert_array_equal(labels["instance"], np.load(tree / "INSTANCE_ANNOTATIONS/INSTANCES_10000.npy"))
    assert {name: str(array.dtype) for name, array in labels.items()} == {
        spec.name: spec.dtype for spec in source.spec.labels
    }


def test_semantic_has_20_classes_and_ignores_void(tree):
    semantic = open_source(tree).spec.labels[0]
    assert (len(semantic.classes), semantic.classes[semantic.ignore]) == (20, "Void")


def test_optional_labels_may_be_absent_and_it_is_noted(tree):
    for path in [*tree.glob("ANNOTATIONS/Parcel*"), *tree.glob("INSTANCE_ANNOTATIONS/*")]:
        path.unlink()
    source = open_source(tree)
    assert [label.name for label in source.spec.labels] == ["semantic"]
    assert any("ParcelIDs" in note for note in source.notes)


def test_footprints_become_north_up_grids_in_the_zone_of_the_tile(tree):
    for number, entry in enumerate(open_source(tree).entries):
        assert entry.crs == "EPSG:32631"
        assert entry.transform == (10.0, 0.0, 500000.0 + 80 * number, 0.0, -10.0, 5200000.0)


def test_footprints_are_indexed_in_degrees(tree):
    centre = open_source(tree).entries[0].footprint.centroid
    assert abs(centre.x - 3) < 0.01, "500 km east in zone 31 is its central meridian, 3 degrees east"
    assert 46 < centre.y < 47.5


def test_without_a_tile_the_zone_follows_the_longitude(tree):
    trees.edit(tree, 10001, TILE=None)
    assert open_source(tree).entries[1].crs == "EPSG:32631"


def test_a_footprint_that_is_not_the_patch_box_gives_no_grid_and_one_note(tree):
    collection = trees.read_metadata(tree)
    for one in collection["features"]:
        one["geometry"]["coordinates"] = [[trees.box_in_lambert93(500000, 5200000, 333)]]
    trees.write_metadata(tree, collection)
    source = open_source(tree)
    assert all(entry.crs is None and entry.transform is None for entry in source.entries)
    assert all(entry.footprint is not None for entry in source.entries)
    assert sum("4 of 4 footprints" in note for note in source.notes) == 1


def test_a_patch_without_geometry_is_still_read(tree):
    collection = trees.read_metadata(tree)
    collection["features"][0]["geometry"] = None
    trees.write_metadata(tree, collection)
    entry = open_source(tree).entries[0]
    assert (entry.crs, entry.footprint) == (None, None)


def test_spot_is_one_date_of_bytes_on_its_own_grid(tree):
    trees.add_spot(tree)
    source = open_source(tree)
    spec, entry = source.spec.modalities[-1], source.entries[0]
    stored = source.read(entry, "spot")
    assert (spec.name, spec.shape, spec.dtype, spec.gsd, spec.nodata) == ("spot", (3, 80, 80), "uint8", 1.0, None)
    assert (stored.shape, stored.dtype) == ((1, 3, 80, 80), np.uint8)
    assert entry.days["spot"].tolist() == [SPOT_DAY] == [day("2019-07-01")]


def test_synthetic_in_the_metadata_reaches_the_store(tree):
    assert not open_source(tree).spec.synthetic
    trees.write_metadata(tree, trees.read_metadata(tree) | {"synthetic": True})
    spec = open_source(tree).spec
    assert spec.synthetic
    assert "synthetic" in spec.title.lower()
    assert "Etalab" not in spec.licence


def test_a_limit_takes_patches_from_all_folds():
    assert spread([1, 1, 1, 2, 2, 3], 4) == [0, 1, 3, 5]
    assert spread([1, 1, 2], 10) == [0, 1, 2]


def test_the_tree_is_found_below_a_folder(tree):
    assert find(tree) == tree
    assert find(tree.parent) == tree
    assert find(tree / "DATA_S2") is None


def test_a_source_can_be_sent_to_another_process(tree):
    source = pickle.loads(pickle.dumps(open_source(tree)))
    assert source.read(source.entries[0], "s2").shape == (6, 10, 8, 8)


def test_input_bytes_are_the_sizes_of_the_files(tree):
    source = open_source(tree, modalities=["s2"])
    files = ["DATA_S2/S2", "ANNOTATIONS/TARGET", "ANNOTATIONS/ParcelIDs", "INSTANCE_ANNOTATIONS/INSTANCES"]
    assert source.input_bytes(source.entries[0]) == sum((tree / f"{file}_10000.npy").stat().st_size for file in files)


@pytest.mark.shared
def test_the_real_sample_is_read_whole(shared):
    source = open_source(shared("pastis-real"))
    assert source.spec.title == "Other data in the layout of PASTIS-R"
    assert len(source.entries) == 8
    assert [one.name for one in source.spec.modalities] == ["s2", "s1-asc"]
    for entry in source.entries:
        assert entry.crs == "EPSG:32631"
        assert entry.transform[2] % 10 == entry.transform[5] % 10 == 0
        for modality in source.spec.modalities:
            stored = source.read(entry, modality.name)
            assert stored.shape == (len(entry.days[modality.name]), *modality.shape)
        source.read_labels(entry)
