"""`eokit evaluate` as it is typed."""

from __future__ import annotations

import json

import pytest

from eokit.models.bundle import load_bundle, save_bundle
from eokit.tasks.segmentation import SegmentationModel
from eokit.tasks.task import Task
from tests.training.labelled_stores import BANDS, CLASSES, VOID, labelled_store, random_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


def test_json_is_the_only_thing_on_stdout(eokit, store, bundle):
    code, out, _ = eokit("evaluate", bundle, "--data", store.path, "--protocol", "knn", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["protocol"], told["unit"], told["synthetic"]) == ("knn", "token", True)
    assert told["folds"] == {"train": [1, 2, 3], "validation": [4], "test": [5]}
    assert 0 <= told["scores"]["miou"] <= 1


def test_a_table_is_printed_without_json(eokit, store, bundle):
    code, out, _ = eokit("evaluate", bundle, "--data", store.path)
    assert code == 0
    assert out.startswith("linear on toy (SYNTHETIC data or model)\nper pixel, 3 patches")
    assert all(word in out for word in ("mIoU", "meadow", "corn", "rare"))


def test_the_report_and_the_picture_are_written(eokit, store, bundle, tmp_path):
    where = ("--out", "made/report.json", "--plot", "made/confusion.png")
    code, _, err = eokit("evaluate", bundle, "--data", store.path, "--protocol", "knn", *where)
    assert code == 0
    assert json.loads((tmp_path / "made" / "report.json").read_text())["protocol"] == "knn"
    assert (tmp_path / "made" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "picture  made/confusion.png" in err


@pytest.mark.parametrize(("label", "picture"), [("kinds", "classes-knn.png"), ("main", "confusion-knn.png")])
def test_labels_of_samples_are_scored_and_drawn(eokit, bundle, tmp_path, label, picture):
    whole = labelled_store(tmp_path / "whole.zarr", labels=("kinds", "main"))
    call = ("evaluate", bundle, "--data", whole.path, "--protocol", "knn", "--label", label, "--plot")
    code, out, _ = eokit(*call)
    assert code == 0
    assert "per sample, 3 samples, folds: train 1 2 3" in out
    assert ("macro mAP" in out) == (label == "kinds")
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_forest_needs_no_bundle_and_no_run(eokit, store):
    code, out, _ = eokit("evaluate", "--data", store.path, "--protocol", "random-forest")
    assert code == 0
    assert out.startswith("random-forest on toy")


def test_the_newest_bundle_and_the_only_store_are_the_defaults(eokit, store, bundle, tmp_path):
    for name, target in (("data/toy.zarr", store.path), ("runs/some/bundle", bundle)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    code, out, _ = eokit("evaluate", "--protocol", "knn", "--json")
    assert code == 0
    assert json.loads(out)["provenance"]["bundle"] == "runs/some/bundle"


def test_without_any_bundle_the_way_out_is_told(eokit, store):
    code, _, err = eokit("evaluate", "--data", store.path)
    assert code == 4
    assert "runs holds no bundle; name the folder that pretrain or finetune wrote" in err


def test_other_bands_are_exit_4_with_both_orders(eokit, store, tmp_path):
    shuffled = random_bundle(tmp_path / "shuffled", store, bands=BANDS[::-1])
    code, out, err = eokit("evaluate", shuffled, "--data", store.path, "--json")
    assert (code, out) == (4, "")
    assert "s2 holds sentinel-2 bands B02 B03" in err
    assert "trained on sentinel-2 bands B12 B11" in err
    assert err.count("\n") == 1


def test_weights_of_another_model_are_exit_4_with_the_differing_keys(eokit, store, bundle, tmp_path):
    other = random_bundle(tmp_path / "other", store, width=64)
    (other / "bundle.json").write_text((bundle / "bundle.json").read_text())
    code, _, err = eokit("evaluate", other, "--data", store.path)
    assert code == 4
    assert "patches.s2.projection.bias is (64,), the model has (32,)" in err


def test_a_head_that_does_not_fit_is_exit_4_with_the_differing_keys(eokit, store, bundle, tmp_path):
    loaded = load_bundle(bundle)
    made = SegmentationModel(loaded.encoder, Task(CLASSES, VOID, "linear")).to_bundle(loaded.preprocessing, {})
    made.task = made.task | {"head": "conv"}
    code, _, err = eokit("evaluate", save_bundle(tmp_path / "odd", made), "--data", store.path)
    assert code == 4
    assert "head: " in err
    assert "missing decode." in err


@pytest.mark.parametrize(("folds", "told"), [(("--folds", "9"), "no sample in folds 9"), (("--train-folds", "8"), "8")])
def test_an_empty_fold_is_exit_3(eokit, store, bundle, folds, told):
    code, _, err = eokit("evaluate", bundle, "--data", store.path, "--protocol", "knn", *folds)
    assert code == 3
    assert told in err


def test_a_store_without_labels_is_exit_3(eokit, bundle, tmp_path):
    bare = labelled_store(tmp_path / "bare.zarr", labels=())
    code, _, err = eokit("evaluate", bundle, "--data", bare.path)
    assert code == 3
    assert "no label layer 'semantic' (it has: none)" in err


def test_a_fold_in_two_parts_is_exit_2(eokit, store, bundle):
    code, _, err = eokit("evaluate", bundle, "--data", store.path, "--folds", "3-5", "--train-folds", "1-3")
    assert code == 2
    assert "fold 3 is both a train and a test fold" in err
