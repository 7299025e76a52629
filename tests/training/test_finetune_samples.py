"""Fine-tuning on labels of whole samples, of a small synthetic store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eokit.data.store import Store
from eokit.errors import DataError, UsageError
from eokit.models.bundle import load_bundle
from eokit.training.events import read_events
from eokit.training.finetune import finetune, lay_out, run_folder, try_out
from tests.training.labelled_stores import CLASSES, VOID, labelled_store, random_bundle

LAYERS = ("kinds", "main")
KINDS = {"kinds": "multilabel", "main": "classification"}
METRICS = {"kinds": "macro_map", "main": "macro_f1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr", folds=(1, 2, 3, 4, 5) * 6, labels=LAYERS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "pretrained", store)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    bundle = load_bundle(path)
    return bundle.encoder.state_dict() | {f"head.{key}": value for key, value in bundle.head.items()}


@pytest.mark.parametrize("label", LAYERS)
def test_the_label_layer_tells_the_task(settings, label):
    result = finetune(settings(label=label))
    task = load_bundle(result.bundle).task
    assert (task["kind"], task["label"], result.metric) == (KINDS[label], label, METRICS[label])
    assert task["classes"] == list(CLASSES[:VOID] if label == "kinds" else CLASSES)


@pytest.mark.parametrize("mode", ["full", "frozen", "head-only"])
@pytest.mark.parametrize("label", LAYERS)
def test_classes_that_pixels_tell_are_learned(settings, label, mode):
    result = finetune(settings(label=label, mode=mode, loop_steps=40, loop_lr=3e-3))
    assert result.fit.best_metric > 0.75


@pytest.mark.parametrize("mode", ["frozen", "head-only"])
def test_a_fixed_encoder_is_bitwise_the_one_it_started_from(settings, bundle, mode):
    before, after = weights_of(bundle), weights_of(finetune(settings(label="kinds", mode=mode)).bundle)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_head_starts_better_than_it_would_end_without(settings):
    result = finetune(settings(label="kinds", loop_steps=2, loop_lr=1e-12, loop_final_lr=0.0))
    (first, *_) = read_events(run_folder(result.bundle), "validation")
    assert first["step"] == 0
    assert first["macro_map"] > 0.75  # the classes occur in half of the samples: chance is an average precision of 0.5


@pytest.mark.parametrize("label", LAYERS)
def test_a_run_cut_in_two_ends_with_the_same_weights(settings, tmp_path, label):
    whole = finetune(settings(out=tmp_path / "whole", label=label))
    finetune(settings(out=tmp_path / "cut", label=label))
    half = run_folder(tmp_path / "cut") / "checkpoints" / "step-000003"
    cut = finetune(settings(out=tmp_path / "cut", resume=str(half), label=label))
    one, other = weights_of(whole.bundle), weights_of(cut.bundle)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_validation_told_is_that_of_the_state_kept(settings):
    result = finetune(settings(label="kinds", loop_steps=20, loop_lr=0.05, validate_every=2))
    told = [event["macro_map"] for event in read_events(run_folder(result.bundle), "validation")]
    assert len(set(told)) > 1
    assert result.fit.best_metric == max(told)
    made = load_bundle(result.bundle).provenance
    assert (made["recipe"], made["best_val_macro_map"]) == ("multilabel", max(told))


@pytest.mark.parametrize("mode", ["full", "head-only"])
@pytest.mark.parametrize("label", LAYERS)
def test_a_dry_run_tries_a_step_and_writes_nothing(settings, tmp_path, label, mode):
    _, cost = try_out(settings(label=label, mode=mode))
    assert cost.loss > 0
    assert list(tmp_path.iterdir()) == []


def test_the_only_layer_is_taken_and_told(settings, tmp_path):
    one = labelled_store(tmp_path / "one.zarr", labels=("kinds",))
    plan = lay_out(settings(data=one.path))
    assert plan.recipe.model.task.label == "kinds"
    assert any("labels: kinds, the only layer" in note for note in plan.notes)


def test_of_several_layers_one_has_to_be_chosen(settings):
    with pytest.raises(UsageError, match="has several label layers: kinds, main; choose one with --label"):
        lay_out(settings())


def test_a_layer_that_is_not_there_is_refused(settings):
    with pytest.raises(DataError, match=r"no label layer 'genus' \(it has: kinds, main\)"):
        lay_out(settings(label="genus"))


@pytest.mark.parametrize("head", ["conv", "dense"])
def test_a_head_of_maps_is_refused(settings, head):
    with pytest.raises(UsageError, match=f"--head {head} draws maps, 'kinds' is of whole samples"):
        lay_out(settings(label="kinds", head=head))


def test_class_weights_are_refused_where_a_sample_has_several_classes(settings):
    with pytest.raises(UsageError, match="'kinds' has several"):
        lay_out(settings(label="kinds", class_weights="sqrt"))
    assert len(set(lay_out(settings(label="main")).recipe.class_weights[:3].tolist())) > 1
