"""What `Store` gives back is what the source gave, and what it cannot give it refuses in one line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.data.store import Store
from eokit.errors import ArgumentError, DataError
from tests.data.stores import CLASSES, make_source, make_store


@pytest.fixture(scope="module")
def source():
    return make_source((5, 9, 0, 12), spot=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory, source):
    return make_store(tmp_path_factory.mktemp("store") / "toy.zarr", source)


def edit_root(path, change, part="attributes"):
    """Rewrite the root zarr.json with `change` applied to its attributes, or to its consolidated documents."""
    root = json.loads((path / "zarr.json").read_text())
    change(root["attributes"] if part == "attributes" else root["consolidated_metadata"]["metadata"])
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize("modality", ["s2", "s1-asc", "spot"])
def test_pixels_and_days_are_those_of_the_source(store, source, modality):
    for sample, entry in enumerate(source.entries):
        np.testing.assert_array_equal(store.read(modality, sample), source.read(entry, modality))
        np.testing.assert_array_equal(store.days(modality, sample), entry.days[modality])


def test_labels_are_those_of_the_source(store, source):
    for sample, entry in enumerate(source.entries):
        for name, layer in source.read_labels(entry).items():
            np.testing.assert_array_equal(store.read_label(name, sample), layer)


def test_a_window_of_a_label_is_cut_from_the_layer(store):
    np.testing.assert_array_equal(
        store.read_label("semantic", 1, (3, 9, 40, 48)), store.read_label("semantic", 1)[3:9, 40:]
    )


def test_specs_come_back_as_they_were_written(store, source):
    assert store.modalities == {one.name: one for one in source.spec.modalities}
    assert store.labels == {one.name: one for one in source.spec.labels}
    assert (store.dataset, store.synthetic, len(store)) == ("toy", True, 4)
    assert store.attributes["modalities"]["s2"]["wavelength"] == [490, 560, 665, 705]


def test_where_tells_crs_and_transform(store, source):
    assert store.where(1).id == "p1"
    assert (store.where(1).crs, store.where(1).transform) == ("EPSG:32631", source.entries[1].transform)


def test_select_keeps_the_order_and_the_limit(store):
    assert store.select([2]).tolist() == [1, 3]
    assert store.select(limit=3).tolist() == [0, 1, 2]


def test_an_empty_fold_names_the_folds_there_are(store):
    with pytest.raises(DataError, match=r"no sample in folds 7; its folds are 1, 2"):
        store.select([7])


def test_class_counts_are_those_of_the_layers(store):
    layers = [store.read_label("semantic", sample) for sample in store.select([2])]
    np.testing.assert_array_equal(store.class_counts(folds=[2]), np.bincount(np.ravel(layers), minlength=len(CLASSES)))


def test_counting_classes_of_a_layer_without_any_is_refused(store):
    with pytest.raises(DataError, match="labels that have: semantic"):
        store.class_counts("parcel")


def test_unknown_modality_names_those_there_are(store):
    with pytest.raises(DataError, match="it has s2, s1-asc, spot"):
        store.read("planet", 0)


@pytest.mark.parametrize("window", [(0, 49, 0, 8), (4, 4, 0, 8), (-1, 4, 0, 8)])
def test_a_window_outside_the_patch_is_refused(store, window):
    with pytest.raises(ArgumentError, match="expected one within"):
        store.read("s2", 0, window=window)


@pytest.mark.parametrize("date", [-1, 5])
def test_a_date_that_is_not_there_is_refused(store, date):
    with pytest.raises(ArgumentError, match=r"it has 0\.\.4"):
        store.read("s2", 0, dates=[date])


def test_a_pickled_store_reads_the_same(store):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read("s2", 3), store.read("s2", 3))


def test_a_missing_store_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match="does not exist; make it with eokit prepare"):
        Store.open(tmp_path / "none.zarr")


def test_an_unfinished_store_says_how_to_finish_it(tmp_path):
    (tmp_path / "toy.zarr.partial").mkdir()
    with pytest.raises(DataError, match="is unfinished, go on with eokit prepare --resume"):
        Store.open(tmp_path / "toy.zarr")


def test_a_newer_schema_asks_for_a_newer_eokit(tmp_path):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    edit_root(tmp_path / "toy.zarr", lambda attributes: attributes.update(schema_version=99))
    with pytest.raises(DataError, match=r"store schema 99.*use a newer eokit"):
        Store.open(tmp_path / "toy.zarr")


def test_another_zarr_group_is_no_store(tmp_path):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    edit_root(tmp_path / "toy.zarr", lambda attributes: attributes.pop("schema_version"))
    with pytest.raises(DataError, match="no eokit store"):
        Store.open(tmp_path / "toy.zarr")


@pytest.mark.parametrize("file", ["zarr.json", "index.parquet"])
def test_a_cut_file_is_reported_as_damage(tmp_path, file):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    whole = (tmp_path / "toy.zarr" / file).read_bytes()
    (tmp_path / "toy.zarr" / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="again"):
        Store.open(tmp_path / "toy.zarr")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda attributes: attributes.update(modalities=[]), "attributes"),
        (lambda attributes: attributes.update(labels=None), "attributes"),
        (lambda attributes: attributes["modalities"].update(s2=None), "attributes"),
        (lambda attributes: attributes.pop("licence"), "attributes"),
        (lambda documents: documents.pop("s2/data"), "documents"),
        (lambda documents: documents["s2/data"].update(codecs=[]), "documents"),
        (lambda documents: documents["s2/data"]["codecs"][0]["configuration"].update(codecs=[]), "documents"),
        (lambda documents: documents["s2/data"]["codecs"][0].update(configuration=None), "documents"),
    ],
)
def test_a_root_document_that_lost_a_part_is_reported_as_damage(tmp_path, change, part):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    edit_root(tmp_path / "toy.zarr", change, part)
    with pytest.raises(DataError, match=r"the store is damaged .*prepare it again with --overwrite"):
        Store.open(tmp_path / "toy.zarr")


@pytest.mark.parametrize(
    "change",
    [
        lambda documents: documents.pop("s2/days"),
        lambda documents: documents["s2/days"].pop("shape"),
        lambda documents: documents["s2/days"].update(shape=None),
    ],
)
def test_a_missing_document_of_days_is_reported_as_damage(tmp_path, change):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    edit_root(tmp_path / "toy.zarr", change, "documents")
    with pytest.raises(DataError, match=r"s2/days: is damaged .*prepare the store again"):
        Store.open(tmp_path / "toy.zarr").days("s2", 0)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"modalities": {}, "labels": {}}', '{"modalities": [], "labels": {}}']
)
def test_statistics_that_lost_a_part_are_reported_as_damage(tmp_path, text):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    (tmp_path / "toy.zarr/stats.json").write_text(text)
    with pytest.raises(DataError, match=r"stats\.json: cannot be read .*prepare the store again"):
        Store.open(tmp_path / "toy.zarr").statistics  # noqa: B018


def test_damaged_days_are_noticed(tmp_path):
    make_store(tmp_path / "toy.zarr", make_source((2,)))
    (tmp_path / "toy.zarr/s2/days/c/0").write_bytes(b"12345678abcd")
    with pytest.raises(DataError, match="does not match its checksum"):
        Store.open(tmp_path / "toy.zarr").days("s2", 0)


def test_opening_and_reading_import_neither_torch_nor_zarr_nor_geopandas(store):
    script = (
        "import sys; from eokit.data.store import Store;"
        f"Store.open({str(store.path)!r}).read('s2', 0);"
        "print(sorted({'torch', 'zarr', 'geopandas', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 7, 8, 9, 61, 300]), min_size=1, max_size=4),
    size=st.integers(1, 70),
    bands=st.integers(1, 10),
    layout=st.sampled_from(["default", "pixel", "tile"]),
    data=st.data(),
)
def test_any_dates_and_window_of_any_store_come_back(tmp_path_factory, counts, size, bands, layout, data):
    counts = [min(count, 61) for count in counts] if size > 24 else counts
    source = make_source(counts, size=size, bands=bands)
    store = make_store(tmp_path_factory.mktemp("any") / "toy.zarr", source, layout=layout)
    for sample, entry in enumerate(source.entries):
        expected = source.read(entry, "s2")
        np.testing.assert_array_equal(store.read("s2", sample), expected)
        dates = data.draw(st.lists(st.integers(0, max(counts[sample] - 1, 0)), max_size=6 if counts[sample] else 0))
        (y0, y1), (x0, x1) = (
            sorted(data.draw(st.tuples(st.integers(0, size - 1), st.integers(1, size)))) for _ in "yx"
        )
        window = (y0, max(y1, y0 + 1), x0, max(x1, x0 + 1))
        found = store.read("s2", sample, dates, window)
        np.testing.assert_array_equal(found, expected[dates][:, :, window[0] : window[1], window[2] : window[3]])
