"""Fine-tuning on a small synthetic store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eokit.data.store import Store
from eokit.errors import DataError, UsageError, WeightsError
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.study import EvaluateSettings
from eokit.models.bundle import load_bundle
from eokit.training.events import read_events
from eokit.training.finetune import finetune, lay_out, run_folder
from tests.training.labelled_stores import BANDS, labelled_store, random_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store) -> Path:
    return random_bundle(tmp_path_factory.mktemp("bundle") / "pretrained", store)


def encoder_of(path: Path) -> dict[str, torch.Tensor]:
    return load_bundle(path).encoder.state_dict()


@pytest.mark.parametrize("mode", ["frozen", "head-only"])
def test_a_fixed_encoder_is_bitwise_the_one_it_started_from(settings, bundle, mode):
    before, after = encoder_of(bundle), encoder_of(finetune(settings(mode=mode)).bundle)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_full_changes_the_encoder(settings, bundle):
    before, after = encoder_of(bundle), encoder_of(finetune(settings(mode="full")).bundle)
    assert not all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("mode", "head"), [("full", "conv"), ("frozen", "conv"), ("head-only", "linear")])
def test_classes_that_pixels_tell_are_learned(settings, mode, head):
    result = finetune(settings(mode=mode, head=head, loop_steps=80, loop_lr=1e-2))
    assert result.fit.best_metric > 0.8


@pytest.mark.parametrize("mode", ["full", "frozen", "head-only"])
@pytest.mark.parametrize("head", ["linear", "conv"])
def test_training_starts_where_a_linear_probe_ends(settings, store, bundle, mode, head):
    still = finetune(settings(mode=mode, head=head, loop_steps=1, loop_lr=1e-12, loop_final_lr=0.0))
    probe = EvaluateSettings(bundle=bundle, data=store.path, protocol="linear", folds=(4,), dates=4, quiet=True)
    assert still.fit.best_metric > 0.8 * evaluate(probe).scores["miou"] > 0.2


def test_a_head_is_shown_as_many_dates_as_it_learned_from(settings, store):
    made = finetune(settings())
    by_default = evaluate(EvaluateSettings(bundle=made.bundle, data=store.path, folds=(4,), quiet=True))
    assert by_default.scores["miou"] == made.fit.best_metric


def test_the_bundle_holds_the_weights_of_the_best_validation(settings, store):
    # so high a rate makes validations go up and down
    result = finetune(settings(loop_steps=30, loop_lr=0.05, validate_every=3))
    told = [event["miou"] for event in read_events(run_folder(result.bundle), "validation")]
    assert len(set(told)) > 2
    again = evaluate(EvaluateSettings(bundle=result.bundle, data=store.path, folds=(4,), dates=4, quiet=True))
    assert result.fit.best_metric == max(told)
    assert again.scores["miou"] == pytest.approx(max(told), abs=1e-12)


def test_a_training_that_makes_it_worse_keeps_the_head_it_started_from(settings):
    result = finetune(settings(loop_steps=4, loop_lr=10.0, validate_every=2))
    assert result.fit.best_step == 0
    assert load_bundle(result.bundle).provenance["best_step"] == 0


def test_training_stops_when_validation_no_longer_improves(settings):
    result = finetune(settings(loop_steps=50, loop_lr=1e-12, loop_final_lr=0.0, validate_every=2, patience=2))
    assert (result.fit.step, result.fit.best_step, result.fit.stopped_early) == (4, 0, True)


def test_the_test_fold_is_never_read(settings, store):
    plan = lay_out(settings())
    touched = {int(store.folds[number]) for one in (plan.dataset, plan.validation) for number in one.indices}
    assert touched == {1, 2, 3, 4}


def test_without_a_validation_fold_it_trains_to_the_end_and_says_so(settings):
    result = finetune(settings(train_folds=(1, 2, 3, 4)))
    assert any("no validation fold" in note for note in result.notes)
    assert (result.fit.best_step, result.fit.step) == (None, 6)


def test_a_finished_run_goes_on_to_the_same_bundle(settings):
    first = encoder_of(finetune(settings()).bundle)
    again = encoder_of(finetune(settings(resume="auto")).bundle)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_run_cut_in_two_ends_with_the_same_weights(settings, tmp_path):
    whole = finetune(settings(out=tmp_path / "whole"))
    finetune(settings(out=tmp_path / "cut"))
    half = run_folder(tmp_path / "cut") / "checkpoints" / "step-000003"
    cut = finetune(settings(out=tmp_path / "cut", resume=str(half)))
    one, other = encoder_of(whole.bundle), encoder_of(cut.bundle)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_random_weights_are_other_weights_of_the_same_shape(settings, bundle):
    plain, random = lay_out(settings()), lay_out(settings(random_init=True))
    one, other = (plan.recipe.model.encoder.state_dict() for plan in (plain, random))
    assert one.keys() == other.keys()
    assert not torch.equal(one["patches.s2.projection.weight"], other["patches.s2.projection.weight"])
    assert finetune(settings(random_init=True)).bundle.is_dir()


def test_the_bundle_tells_how_it_came_to_be(settings, bundle):
    made = load_bundle(finetune(settings(mode="frozen")).bundle).provenance
    assert (made["train_folds"], made["val_folds"], made["mode"]) == ([1, 2, 3], [4], "frozen")
    assert made["synthetic"] is True
    assert made["pretrained"] == load_bundle(bundle).provenance


def test_normalisation_stays_that_of_the_pretraining(settings, bundle):
    result = finetune(settings(train_folds=(1,)))
    assert load_bundle(result.bundle).preprocessing == load_bundle(bundle).preprocessing


def test_a_fine_tuned_bundle_can_be_fine_tuned_again_with_another_head(settings, tmp_path):
    first = finetune(settings(head="conv"))
    second = finetune(settings(bundle=first.bundle, out=tmp_path / "second", head="linear"))
    assert load_bundle(second.bundle).task["head"] == "linear"


def test_a_folder_that_is_no_bundle_is_not_replaced(settings, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="is no bundle; choose another --out"):
        finetune(settings())
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_store_without_labels_is_refused(settings, tmp_path):
    bare = labelled_store(tmp_path / "bare.zarr", labels=())
    with pytest.raises(DataError, match="no label layer 'semantic'"):
        finetune(settings(data=bare.path))


def test_other_bands_are_refused_before_anything_is_written(settings, store, tmp_path):
    shuffled = random_bundle(tmp_path / "shuffled", store, bands=BANDS[::-1])
    with pytest.raises(WeightsError, match="the model was trained on sentinel-2 bands B12 B11"):
        finetune(settings(bundle=shuffled))
    assert not (tmp_path / "out.run").exists()


def test_labels_that_do_not_divide_into_patches_are_refused(settings, store, tmp_path):
    wide = random_bundle(tmp_path / "wide", store, patch_size=5)
    with pytest.raises(UsageError, match="does not divide into patches of 5"):
        finetune(settings(bundle=wide))
