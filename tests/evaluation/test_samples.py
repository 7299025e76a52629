"""The protocols of `evaluate` on labels of whole samples, of a small synthetic store with a random encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eokit.data.store import Store
from eokit.errors import DataError, UsageError, WeightsError
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.report import MultilabelReport
from eokit.evaluation.samples import SAMPLE_PROTOCOLS
from eokit.evaluation.study import EvaluateSettings
from eokit.models.bundle import load_bundle, save_bundle
from eokit.tasks.classification import ClassificationModel
from eokit.tasks.task import Task
from eokit.training.finetune import FinetuneLoop, FinetuneSettings, finetune
from tests.tasks.many_sensors import anysat_bundle
from tests.training.labelled_stores import CLASSES, VOID, labelled_store, random_bundle

LAYERS = ("kinds", "main")
PROBES = ("knn", "linear", "random-forest", "raw-linear")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr", folds=(1, 2, 3, 4, 5) * 16, labels=LAYERS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


@pytest.fixture
def score(store, bundle):
    """`score(protocol=..., ...)`: the report of an evaluation of the random bundle."""

    def make(**changes):
        values = {"bundle": bundle, "data": store.path, "quiet": True, "batch_size": 4, "device": "cpu"}
        return evaluate(EvaluateSettings(**(values | changes)))

    return make


def headed(bundle: Path, out: Path, **changes) -> Path:
    """The bundle with an untrained head."""
    loaded = load_bundle(bundle)
    task = Task(**({"classes": CLASSES[:VOID], "head": "linear", "label": "kinds", "kind": "multilabel"} | changes))
    return save_bundle(out, ClassificationModel(loaded.encoder, task).to_bundle(loaded.preprocessing, {}))


@pytest.fixture(scope="module")
def ten_bands(tmp_path_factory) -> Store:
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    folds, path = (1, 2, 3, 4, 5) * 8, tmp_path_factory.mktemp("data") / "ten-bands.zarr"
    return labelled_store(path, folds=folds, bands=bands, labels=("semantic", "kinds"))


def test_a_probe_learns_from_the_vector_of_a_sample_that_is_asked_for(score, ten_bands, tmp_path):
    given = {"bundle": anysat_bundle(tmp_path / "a", ten_bands), "data": ten_bands.path, "label": "kinds"}
    for protocol, of, told in (("knn", None, "token"), ("knn", "patches", "patches"), ("linear", "token", "token")):
        assert score(**given, protocol=protocol, tile_of=of).provenance["model"]["tile_of"] == told


def test_a_vector_of_a_sample_is_refused_where_there_is_no_choice(score, ten_bands, tmp_path):
    anysat = {"bundle": anysat_bundle(tmp_path / "a", ten_bands), "data": ten_bands.path, "tile_of": "patches"}
    with pytest.raises(UsageError, match="--tile-of patches is for labels of samples, not for the map 'semantic'"):
        score(**anysat, label="semantic", protocol="linear")
    with pytest.raises(UsageError, match="--tile-of patches is for the protocols knn and linear, not for raw-linear"):
        score(**anysat, label="kinds", protocol="raw-linear")
    with pytest.raises(UsageError, match="--tile-of patches: cropsts has one vector of a sample"):
        score(label="kinds", protocol="knn", tile_of="patches")


@pytest.mark.parametrize("protocol", PROBES)
def test_every_probe_learns_which_classes_are_in_a_sample(score, store, protocol):
    report = score(protocol=protocol, label="kinds")
    assert report.unit == "sample"
    assert report.patches == len(store.select([5]))
    seen = [row["ap"] for row in report.scores["per_class"] if row["train_support"]]
    assert np.mean(seen) > 0.8  # each class is in four of five samples or fewer, so chance is lower


@pytest.mark.parametrize("protocol", PROBES)
def test_every_probe_learns_the_class_of_a_sample(score, store, protocol):
    report = score(protocol=protocol, label="main", folds=(3, 4), train_folds=(1, 2, 5))
    truth = [int(store.read_label("main", number)) for number in store.select([3, 4])]
    assert report.matrix.sum(1).tolist() == np.bincount(truth, minlength=len(CLASSES)).tolist()
    assert report.scores["oa"] > 0.6  # a third by chance; in a fifth of the samples two classes tie


def test_scores_of_a_fine_tuned_head_are_those_of_its_validation(score, store, bundle, tmp_path):
    for label in LAYERS:
        loop = FinetuneLoop(steps=4, batch_size=4, workers=0, device="cpu")
        settings = FinetuneSettings(
            bundle=bundle, data=store.path, out=tmp_path / label, label=label, dates=4, quiet=True, loop=loop
        )
        made = finetune(settings)
        again = score(bundle=made.bundle, folds=(4,), label=None)
        assert again.protocol == "finetuned"
        assert again.scores[made.metric] == pytest.approx(made.fit.best_metric, abs=1e-6)


@pytest.mark.parametrize("protocol", PROBES)
@pytest.mark.parametrize("label", LAYERS)
def test_the_same_seed_gives_the_same_report(score, protocol, label):
    one, other = (json.dumps(score(protocol=protocol, label=label, seed=3).to_dict()) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("label", LAYERS)
def test_batches_change_nothing(score, label):
    one, other = (score(protocol="linear", label=label, batch_size=size).scores for size in (4, 9))
    for name in ("macro_f1", "n_classes_scored"):
        assert one[name] == pytest.approx(other[name])


def test_intervals_are_over_samples_and_hold_the_score(score):
    report = score(protocol="linear", label="kinds")
    assert isinstance(report, MultilabelReport)
    for name in report.shown:
        low, high = report.interval[name]
        assert low <= report.scores[name] <= high
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["samples"] == 16
    assert "over samples" in plain["rule"]


def test_the_table_has_a_line_for_each_class_and_says_synthetic(score):
    table = score(protocol="knn", label="kinds").table()
    assert table.startswith("knn on toy (SYNTHETIC data or model)\nper sample, 16 samples")
    assert all(word in table for word in ("macro mAP", "micro F1", "meadow", "rare", "   AP"))


def test_random_weights_are_judged_by_the_same_protocol_and_named(score):
    report = score(protocol="linear", label="kinds", random_init=True, seed=5)
    assert report.protocol == "linear (random encoder)"
    assert report.scores != score(protocol="linear", label="kinds").scores


def test_baselines_need_no_bundle(score):
    for protocol in ("random-forest", "raw-linear"):
        report = score(bundle=None, protocol=protocol, label="kinds")
        assert "bundle" not in report.provenance
        assert report.details["columns"] == 20  # mean and deviation of ten bands


def test_the_samples_learned_from_are_bounded(score):
    assert score(protocol="linear", label="main", max_tokens=12).details["train_samples"] == 12
    assert score(protocol="raw-linear", label="main", max_tokens=12).details["train_samples"] == 12


def test_of_several_layers_one_has_to_be_chosen(score):
    with pytest.raises(UsageError, match="has several label layers: kinds, main; choose one with --label"):
        score(protocol="knn")


def test_a_head_for_another_kind_of_label_is_refused(score, bundle, tmp_path):
    with pytest.raises(DataError, match="'main' is for classification, the model was made for multilabel"):
        score(bundle=headed(bundle, tmp_path / "b"), label="main")


def test_a_head_for_other_classes_is_refused(score, bundle, tmp_path):
    with pytest.raises(DataError, match=r"has 4 classes .* the model predicts 2 \(oak, ash"):
        score(bundle=headed(bundle, tmp_path / "b", classes=("oak", "ash")))


def test_finetuned_needs_a_head(score):
    with pytest.raises(WeightsError, match="without a head; fine-tune it first"):
        score(protocol="finetuned", label="kinds")


def test_dense_features_are_for_maps(score):
    with pytest.raises(UsageError, match="--features dense is for maps, not for linear of 'kinds'"):
        score(protocol="linear", label="kinds", features="dense")


def test_every_protocol_of_maps_has_its_like():
    from eokit.evaluation.maps import MAP_PROTOCOLS

    assert SAMPLE_PROTOCOLS.keys() == MAP_PROTOCOLS.keys()
