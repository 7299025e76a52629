"""Damaged and incomplete copies of PASTIS: each is a DataError that names the file, the value and the way out."""

import json

import numpy as np
import pytest

from eokit.data.formats.pastis import check, open_source
from eokit.errors import DataError
from tests.data.formats import trees


@pytest.fixture
def tree(tmp_path):
    return trees.make_tree(tmp_path / "PASTIS-R")


def missing_npy(tree):
    trees.path_of(tree, "s2", 10001).unlink()


def truncated_npy(tree):
    path = trees.path_of(tree, "s1-asc", 10001)
    path.write_bytes(path.read_bytes()[:-100])


def no_npy_at_all(tree):
    trees.path_of(tree, "s2", 10001).write_bytes(b"<html>404</html>")


def pickled_npy(tree):
    np.save(trees.path_of(tree, "s2", 10001), np.array([{"a": 1}], dtype=object), allow_pickle=True)


def wrong_dtype(tree):
    trees.save(tree, "s2", 10001, np.ones((6, 10, 8, 8), np.uint8))


def wrong_band_count(tree):
    trees.save(tree, "s2", 10001, np.ones((6, 9, 8, 8), np.int16))


def wrong_number_of_axes(tree):
    trees.save(tree, "s2", 10001, np.ones((10, 8, 8), np.int16))


def more_dates_than_images(tree):
    trees.edit(tree, 10001, **{"dates-S2": trees.season(7)})


def no_images(tree):
    trees.save(tree, "s2", 10001, np.ones((0, 10, 8, 8), np.int16))


def no_dates(tree):
    trees.edit(tree, 10001, **{"dates-S1A": None})


def impossible_date(tree):
    trees.edit(tree, 10001, **{"dates-S2": {"0": 20181399}})


def dates_that_are_no_table(tree):
    trees.edit(tree, 10001, **{"dates-S2": "20180917"})


def no_fold(tree):
    trees.edit(tree, 10001, Fold=None)


def no_id(tree):
    collection = trees.read_metadata(tree)
    del collection["features"][1]["id"], collection["features"][1]["properties"]["ID_PATCH"]
    trees.write_metadata(tree, collection)


def duplicate_id(tree):
    trees.edit(tree, 10001, ID_PATCH=10000)


def other_patch_size(tree):
    trees.save(tree, "s2", 10001, np.ones((6, 10, 16, 16), np.int16))


def target_of_another_size(tree):
    trees.save_label(tree, "ANNOTATIONS/TARGET", 10001, np.zeros((3, 4, 4), np.uint8))


def target_of_text(tree):
    trees.save_label(tree, "ANNOTATIONS/TARGET", 10001, np.full((3, 8, 8), "wheat"))


def change(tree, **members):
    trees.write_metadata(tree, trees.read_metadata(tree) | members)


def crs_without_properties(tree):
    change(tree, crs={"properties": None})


def crs_that_is_no_object(tree):
    change(tree, crs=[2154])


def crs_without_a_name(tree):
    change(tree, crs={"type": "name", "properties": {"name": 2154}})


def features_of_text(tree):
    change(tree, features=["10000", [1]])


def fold_of_another_script(tree):
    trees.edit(tree, 10001, Fold="\N{SUPERSCRIPT TWO}")


def fold_beyond_the_index(tree):
    trees.edit(tree, 10001, Fold=10**12)


def missing_folder(tree):
    (tree / "DATA_S2").rename(tree / "S2")


def no_annotations(tree):
    (tree / "ANNOTATIONS").rename(tree / "LABELS")


def no_metadata(tree):
    (tree / "metadata.geojson").unlink()


def metadata_is_no_json(tree):
    (tree / "metadata.geojson").write_text("<html>404</html>")


def metadata_is_empty(tree):
    (tree / "metadata.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))


def spot_missing(tree):
    trees.add_spot(tree, ids=trees.IDS[:1] + trees.IDS[2:])


def spot_of_an_odd_size(tree):
    trees.add_spot(tree, size=60)


def spot_damaged(tree):
    trees.add_spot(tree)
    next(tree.glob("DATA_SPOT/*/*_10001.tif")).write_bytes(b"II*\0 and no more")


DAMAGES = {
    missing_npy: r"S2_10001\.npy: no such file.*lists patch 10001.*again",
    truncated_npy: r"S1A_10001\.npy: truncated, \d+ bytes where its header promises \d+.*again",
    no_npy_at_all: r"S2_10001\.npy: cannot be read as an npy file",
    pickled_npy: r"S2_10001\.npy: holds pickled Python objects",
    wrong_dtype: r"S2_10001\.npy: dtype uint8, expected int16",
    wrong_band_count: r"S2_10001\.npy: shape \(6, 9, 8, 8\), expected \(T, 10, H, W\) with bands B02",
    wrong_number_of_axes: r"S2_10001\.npy: shape \(10, 8, 8\), expected \(T, 10, H, W\)",
    more_dates_than_images: r"S2_10001\.npy: 6 dates, but dates-S2 of patch 10001 .* has 7",
    no_images: r"S2_10001\.npy: holds no date",
    no_dates: r"metadata\.geojson: patch 10001 has no dates-S1A .*expected \{\"0\": 20180917",
    impossible_date: r"patch 10001: dates-S2: '20181399' is no date, expected",
    dates_that_are_no_table: r"patch 10001: dates-S2: .*20180917.* is no dict of dates",
    no_fold: r"patch 10001: Fold is None, expected a whole number",
    no_id: r"feature 1 has no ID_PATCH",
    duplicate_id: r"ID_PATCH 10000 is in features 0 and 1, expected once",
    other_patch_size: r"S2_10001\.npy: 16 x 16 px, the other patches have 8 x 8 px",
    target_of_another_size: r"TARGET_10001\.npy: 4 x 4 px, the other patches have 8 x 8 px",
    target_of_text: r"TARGET_10001\.npy: dtype str\d+, expected uint8",
    crs_without_properties: r"metadata\.geojson: crs \{'properties': None\} names no reference system, expected",
    crs_that_is_no_object: r"crs \[2154\] names no reference system",
    crs_without_a_name: r"crs \{.* names no reference system",
    features_of_text: r"feature 0 has no ID_PATCH",
    fold_of_another_script: r"Fold is '.', expected a whole number",
    fold_beyond_the_index: r"Fold is 1000000000000, expected a whole number",
    missing_folder: r"DATA_S2: no such folder",
    no_annotations: r"ANNOTATIONS: no TARGET_<id>\.npy",
    no_metadata: r"metadata\.geojson: no such file",
    metadata_is_no_json: r"metadata\.geojson: cannot be read as JSON",
    metadata_is_empty: r"metadata\.geojson: holds no features",
    spot_missing: r"DATA_SPOT: no SPOT6_RVB_1M00_2019_10001\.tif",
    spot_of_an_odd_size: r"images of 60 x 60 px over patches of 8 x 8 px, expected a whole multiple",
    spot_damaged: r"_10001\.tif: cannot be read as a GeoTIFF",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_copy_is_refused_in_one_line(tree, damage):
    damage(tree)
    with pytest.raises(DataError, match=DAMAGES[damage]) as caught:
        open_source(tree)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_check_says_what_prepare_would_say(tree, damage):
    damage(tree)
    with pytest.raises(DataError) as caught:
        open_source(tree)
    assert tuple(check(tree).lines) == caught.value.lines


def test_a_whole_copy_has_no_problem(tree):
    assert check(tree).lines == []


GEOMETRIES = ([1], "x", {"type": ["Polygon"]}, {"type": "Polygon", "coordinates": {"a": 1}})
CORNERS = ([[1], [2], [3], [4], [5]], [[[1, 2]]] * 5, [[1, float("inf")]] * 5, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    "geometry", [*GEOMETRIES, *({"type": "Polygon", "coordinates": [ring]} for ring in CORNERS)], ids=repr
)
def test_a_geometry_that_is_no_polygon_gives_its_patch_no_grid(tree, geometry):
    collection = trees.read_metadata(tree)
    collection["features"][1]["geometry"] = geometry
    trees.write_metadata(tree, collection)
    source = open_source(tree)
    assert [entry.transform is None for entry in source.entries] == [False, True, False, False]
    assert any("1 of 4 footprints (first: patch 10001)" in note for note in source.notes)
    assert check(tree).lines == []


def test_a_tile_that_is_no_name_is_noted_and_its_patch_keeps_its_grid(tree):
    trees.edit(tree, 10001, TILE=31)
    source = open_source(tree)
    assert any("TILE 31 is no MGRS tile" in note for note in source.notes)
    assert [entry.crs for entry in source.entries] == ["EPSG:32631"] * 4


def test_different_troubles_are_named_together(tree):
    missing_npy(tree)
    no_dates(tree)
    with pytest.raises(DataError) as caught:
        open_source(tree)
    assert len(caught.value.lines) == 2


def test_the_same_trouble_of_many_patches_is_one_line(tree):
    for id in trees.IDS[:3]:
        trees.path_of(tree, "s2", id).unlink()
    with pytest.raises(DataError, match="and 2 more patches alike") as caught:
        open_source(tree)
    assert len(caught.value.lines) == 1


def test_broken_patches_can_be_skipped_and_are_noted(tree):
    truncated_npy(tree)
    source = open_source(tree, on_error="skip")
    assert [entry.id for entry in source.entries] == ["10000", "20000", "30000"]
    assert any("10001 is skipped" in note and "truncated" in note for note in source.notes)


def test_a_broken_copy_cannot_be_skipped(tree):
    no_annotations(tree)
    with pytest.raises(DataError, match="ANNOTATIONS"):
        open_source(tree, on_error="skip")


def test_skipping_every_patch_is_an_error(tree):
    for id in trees.IDS:
        trees.path_of(tree, "s2", id).write_bytes(b"")
    with pytest.raises(DataError, match="no patch is left"):
        open_source(tree, on_error="skip")


@pytest.mark.parametrize(("name", "value"), [("s2", -10000), ("s1-asc", np.nan)])
def test_a_patch_without_any_valid_pixel_is_refused(tree, name, value):
    array = np.full_like(np.load(trees.path_of(tree, name, 10001)), value)
    trees.save(tree, name, 10001, array)
    source = open_source(tree)
    with pytest.raises(DataError, match=r"_10001\.npy: no valid pixel in any of its \d dates"):
        source.read(source.entries[1], name)


@pytest.mark.parametrize(("value", "found"), [(20, "20"), (255, "255")])
def test_an_unknown_class_is_refused(tree, value, found):
    target = np.zeros((3, 8, 8), np.uint8)
    target[0, 3, 3] = value
    trees.save_label(tree, "ANNOTATIONS/TARGET", 10001, target)
    source = open_source(tree)
    with pytest.raises(DataError, match=rf"TARGET_10001\.npy: class id {found}, expected 0 to 19"):
        source.read_labels(source.entries[1])


def test_a_file_that_goes_bad_after_the_check_is_still_a_data_error(tree):
    source = open_source(tree)
    truncated_npy(tree)
    with pytest.raises(DataError, match=r"S1A_10001\.npy"):
        source.read(source.entries[1], "s1-asc")


@pytest.mark.shared
def test_third_party_pastis_r_fails_with_a_line_for_each_missing_table_of_dates(shared):
    with pytest.raises(DataError) as caught:
        open_source(shared("pastis-r-thirdparty") / "PASTIS-R")
    assert len(caught.value.lines) == 3
    for line, key in zip(caught.value.lines, ("dates-S2", "dates-S1A", "dates-S1D"), strict=True):
        assert f"has no {key}" in line
