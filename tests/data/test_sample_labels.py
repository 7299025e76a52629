"""Labels of whole samples, one class or several at once, pass from a source to a batch as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray
from click.testing import CliRunner

from eokit.data.collate import collate
from eokit.data.dataset import Draw, SampleDataset
from eokit.data.describe import describe
from eokit.data.spec import LabelSpec
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.data.writer import WriteOptions, write_store
from eokit.errors import ArgumentError, DataError
from eokit_cli.inspect import command
from tests.data.stores import CLASSES, make_source, make_store

QUIET = WriteOptions(workers=1, quiet=True)
WHOLE = ("multilabel", "class")


@pytest.fixture(scope="module")
def source():
    return make_source((5, 9, 3, 12), whole=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory, source):
    return make_store(tmp_path_factory.mktemp("whole") / "toy.zarr", source)


def test_labels_of_samples_are_those_of_the_source(store, source):
    for sample, entry in enumerate(source.entries):
        for name in WHOLE:
            read = store.read_label(name, sample)
            np.testing.assert_array_equal(read, source.read_labels(entry)[name])
            assert read.shape == store.labels[name].shape


def test_their_specs_come_back_as_they_were_written(store, source):
    assert tuple(store.labels.values()) == source.spec.labels
    assert [store.labels[name].is_map for name in ("semantic", *WHOLE)] == [True, False, False]


def test_they_open_without_eokit(store):
    labels = xarray.open_zarr(store.path, group="labels", consolidated=False)
    stored = np.stack([store.read_label("multilabel", sample) for sample in range(len(store))])
    np.testing.assert_array_equal(labels["multilabel"].values[:, 0], stored)
    assert labels["class"].shape == (4, 1, 1)


def test_classes_are_counted_in_samples(store, source):
    layers = [source.read_labels(entry) for entry in source.entries]
    np.testing.assert_array_equal(store.class_counts("multilabel"), np.sum([one["multilabel"] for one in layers], 0))
    expected = np.bincount([int(one["class"]) for one in layers], minlength=len(CLASSES))
    np.testing.assert_array_equal(store.class_counts("class"), expected)


def test_a_window_of_them_is_refused(store):
    with pytest.raises(ArgumentError, match=r"window .* of class, a label of whole samples"):
        store.read_label("class", 0, (0, 1, 0, 1))


def test_a_batch_holds_one_row_a_sample_whatever_is_cropped_and_turned(store):
    inputs = make_preprocessing(store, ["s2"])
    dataset = SampleDataset(
        store.path, range(4), inputs, targets=("semantic", *WHOLE), crop=16, transforms=[FlipRotate()]
    )
    batch = collate([dataset[Draw(3, index)] for index in range(4)])
    assert tuple(batch.targets["semantic"].shape) == (4, 16, 16)
    for name in WHOLE:
        expected = torch.stack([torch.from_numpy(store.read_label(name, one).astype(np.int64)) for one in range(4)])
        assert torch.equal(batch.targets[name], expected)


def test_inspect_counts_them_in_samples(store):
    facts = describe(store)["labels"]["multilabel"]
    assert facts["counted"] == "samples"
    row = facts["classes"][1]
    assert row["share"] == pytest.approx(row["samples"] / 4)
    words = CliRunner().invoke(command, [str(store.path)]).stdout
    assert "multilabel: label, any of 4 classes a sample" in words
    assert "class: label, one class a sample" in words


WRONG = {
    "multilabel holds values 0..2, expected 0 or 1": {"multilabel": np.array([0, 2, 1, 0])},
    "class holds the unknown class id 4; known are 0..3": {"class": np.array(4)},
    r"class has shape \(1,\), expected \(\)": {"class": np.array([1])},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_value_that_cannot_be_is_named(tmp_path, message):
    source = make_source((3,), whole=True)
    layers = source.read_labels(source.entries[0]) | WRONG[message]
    source.read_labels = lambda entry: layers
    with pytest.raises(DataError, match=f"sample p0: {message}"):
        write_store(source, tmp_path / "toy.zarr", QUIET)


@pytest.mark.parametrize("label", [LabelSpec("m", "uint8", (3,), CLASSES), LabelSpec("m", "uint8", (2, 2, 2))])
def test_a_label_that_no_store_holds_is_refused_before_anything_is_written(tmp_path, label):
    source = make_source((3,))
    source.spec = replace(source.spec, labels=(label,))
    with pytest.raises(DataError, match="m: "):
        write_store(source, tmp_path / "toy.zarr", QUIET)
    assert not list(tmp_path.iterdir())


def test_a_sample_that_is_skipped_leaves_the_labels_of_the_others_in_place(tmp_path):
    source = make_source((5, 9, 3), whole=True, broken=["p1"])
    write_store(source, tmp_path / "toy.zarr", replace(QUIET, on_error="skip"))
    store = Store.open(tmp_path / "toy.zarr")
    expected = [source.read_labels(entry)["multilabel"] for entry in source.entries if entry.id != "p1"]
    for sample, label in enumerate(expected):
        np.testing.assert_array_equal(store.read_label("multilabel", sample), label)
