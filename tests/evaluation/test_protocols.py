"""The protocols of `evaluate` on a small synthetic store with a random encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eokit.data.store import Store
from eokit.errors import DataError, SetupError, UsageError, WeightsError
from eokit.evaluation.maps import MAP_PROTOCOLS
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.study import EvaluateSettings
from eokit.models.bundle import load_bundle, save_bundle
from eokit.tasks.segmentation import SegmentationModel
from eokit.tasks.task import Task
from tests.training.labelled_stores import BANDS, CLASSES, VOID, labelled_store, random_bundle

RARE = 3
"""The class that only the test fold has."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, bundle) -> Path:
    """A bundle with an untrained head that says it was trained on folds 1 to 3."""
    path = tmp_path_factory.mktemp("bundle") / "f"
    return save_bundle(path, with_head(load_bundle(bundle), Task(CLASSES, VOID, "linear")))


def with_head(bundle, task: Task, **changes):
    torch.manual_seed(0)
    facts = {"dataset": "toy", "train_folds": [1, 2, 3], "val_folds": [4]} | changes
    return SegmentationModel(bundle.encoder, task).to_bundle(bundle.preprocessing, facts)


@pytest.fixture
def score(store, bundle):
    """`score(protocol=..., ...)`: the report of an evaluation of the random bundle."""

    def make(**changes):
        values = {"bundle": bundle, "data": store.path, "quiet": True, "batch_size": 2, "device": "cpu"}
        return evaluate(EvaluateSettings(**(values | changes)))

    return make


@pytest.fixture
def real(store, monkeypatch):
    """The store as if its pixels had been seen by a satellite."""
    monkeypatch.setattr(Store, "synthetic", property(lambda _: False))
    return store


@pytest.mark.parametrize(("learned", "changes", "synthetic"),
                         [(True, {}, True), (False, {}, False), (True, {"random_init": True}, False)])  # fmt: skip
def test_scores_of_a_model_that_learned_from_made_up_data_say_so(
    score, real, bundle, tmp_path, learned, changes, synthetic
):
    told = load_bundle(bundle)
    told.provenance["synthetic"] = learned
    report = score(bundle=save_bundle(tmp_path / "b", told), protocol="knn", **changes)
    assert report.synthetic is synthetic


@pytest.mark.parametrize("protocol", ["knn", "linear", "random-forest", "raw-linear"])
def test_every_probe_learns_what_pixels_tell(score, protocol):
    report = score(protocol=protocol)
    seen = [row for row in report.scores["per_class"] if row["train_support"]]
    # three classes in fields of two by two patches: chance is a recall of 1/3
    assert np.mean([row["recall"] for row in seen]) > 0.8


def test_knn_counts_tokens_and_the_others_pixels(score, finetuned):
    assert {name: score(protocol=name).unit for name in ("knn", "linear", "random-forest", "raw-linear")} == {
        "knn": "token",
        "linear": "pixel",
        "random-forest": "pixel",
        "raw-linear": "pixel",
    }
    assert score(bundle=finetuned, protocol="finetuned").unit == "pixel"


def test_every_labelled_pixel_of_the_test_fold_is_counted_once(score, store, finetuned):
    truth = np.stack([store.read_label("semantic", number) for number in store.select([5])])
    for report in (score(protocol="linear"), score(protocol="random-forest"), score(bundle=finetuned)):
        assert report.matrix.sum(1).tolist() == [*np.bincount(truth.ravel(), minlength=5)[:VOID], 0]


def test_a_class_that_training_never_saw_is_reported_and_does_not_stop_it(score):
    for protocol in ("knn", "linear", "random-forest", "raw-linear"):
        row = score(protocol=protocol).scores["per_class"][RARE]
        assert (row["train_support"], row["iou"]) == (0, 0)
        assert row["support"] > 0


def test_without_a_protocol_the_head_decides(score, finetuned):
    assert score().protocol == "linear"
    assert score(bundle=finetuned).protocol == "finetuned"


@pytest.mark.parametrize("protocol", ["knn", "linear", "random-forest", "raw-linear"])
def test_the_same_seed_gives_the_same_report(score, protocol):
    one, other = (json.dumps(score(protocol=protocol, max_tokens=100, seed=3).to_dict()) for _ in range(2))
    assert one == other


def test_batches_change_nothing(score):
    assert (score(protocol="linear").matrix == score(protocol="linear", batch_size=5).matrix).all()


def test_random_weights_are_judged_by_the_same_protocol_and_named(score):
    report = score(protocol="linear", random_init=True, seed=5)
    assert report.protocol == "linear (random encoder)"
    assert not (report.matrix == score(protocol="linear").matrix).all()


def test_random_weights_make_no_sense_for_a_head(score, finetuned):
    with pytest.raises(UsageError, match="knn and linear, not for finetuned"):
        score(bundle=finetuned, random_init=True)


def test_the_forest_needs_no_bundle(score):
    report = score(bundle=None, protocol="random-forest")
    assert "bundle" not in report.provenance
    assert report.details["modalities"] == ["s2"]


def test_scores_on_folds_that_were_trained_on_carry_a_note(score, finetuned):
    assert not any("too good" in note for note in score(bundle=finetuned).notes)
    assert any("fine-tuned on test fold 3" in note for note in score(bundle=finetuned, folds=(3,)).notes)
    assert any("without labels, on test fold 3" in note for note in score(folds=(3,)).notes)


@pytest.mark.parametrize(
    ("learned", "folds"),
    [
        ({"train_folds": [1, 2, 3], "val_folds": []}, ((1, 2, 3), (), (4, 5))),
        ({"train_folds": [2, 3], "val_folds": [1]}, ((2, 3), (1,), (4, 5))),
        ({"dataset": "elsewhere"}, ((), (), (4, 5))),
    ],
)
def test_the_folds_of_a_fine_tuned_bundle_are_those_that_it_learned_from(score, bundle, tmp_path, learned, folds):
    made = save_bundle(tmp_path / "b", with_head(load_bundle(bundle), Task(CLASSES, VOID, "linear"), **learned))
    assert score(bundle=made, folds=(4, 5)).folds == folds


def test_few_patches_carry_a_note(score):
    assert any("only 3 patches" in note for note in score().notes)


def test_limit_bounds_the_patches_of_each_part(score):
    assert score(protocol="linear", limit=2).patches == 2


def test_an_empty_fold_is_refused_with_the_folds_there_are(score):
    with pytest.raises(DataError, match="no sample in folds 9; its folds are 1, 2, 3, 4, 5"):
        score(folds=(9,))


def test_a_store_with_one_fold_has_nothing_to_score_on(score, tmp_path):
    one = labelled_store(tmp_path / "one.zarr", folds=(7, 7))
    with pytest.raises(DataError, match=r"no test fold left \(it has one, 7\): samples cannot be both"):
        score(data=one.path, protocol="knn")


def test_a_store_without_labels_is_refused(score, tmp_path):
    with pytest.raises(DataError, match="no label layer 'semantic'"):
        score(data=labelled_store(tmp_path / "bare.zarr", labels=()).path)


def test_finetuned_needs_a_head(score):
    with pytest.raises(WeightsError, match="without a head; fine-tune it first"):
        score(protocol="finetuned")


def test_a_head_for_other_classes_is_refused(score, bundle, tmp_path):
    other = save_bundle(tmp_path / "other", with_head(load_bundle(bundle), Task(("water", "land"))))
    with pytest.raises(DataError, match=r"has 5 classes \(background, .*\), the model predicts 2 \(water, land"):
        score(bundle=other)


def test_other_bands_are_refused_by_every_protocol(score, store, tmp_path):
    shuffled = random_bundle(tmp_path / "shuffled", store, bands=BANDS[::-1])
    for protocol in MAP_PROTOCOLS:
        with pytest.raises(WeightsError, match="give the bands in that order"):
            score(bundle=shuffled, protocol=protocol)


def test_a_device_that_is_not_there_is_refused(score):
    with pytest.raises(SetupError, match="cuda:99 is asked for"):
        score(device="cuda:99")


@pytest.mark.parametrize("label", ["semantic", "main"])
def test_progress_says_what_samples_are_read_for(score, tmp_path, capsys, label):
    store = labelled_store(tmp_path / "toy.zarr", labels=("semantic", "main"))
    score(data=store.path, protocol="linear", label=label, quiet=False)
    told = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["features to learn from", "features to choose a penalty on", "linear probe"]
