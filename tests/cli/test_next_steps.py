"""What the verbs propose at their end can be typed as it stands."""

from __future__ import annotations

import shlex

import pytest

from tests.data.stores import make_source, make_store
from tests.tasks.many_sensors import anysat_bundle, many_sensors
from tests.training.labelled_stores import labelled_store, random_bundle

LOOP = ("--workers", "0", "--device", "cpu")
PRETRAIN = ("--model", "anysat", "--steps", "1", "--batch-size", "2", "--dates", "2", *LOOP)
SMALL = ("-o", "encoder.width=64", "-o", "encoder.depth=1", "-o", "jepa.predictor_depth=1")
FINETUNE = ("--steps", "2", "--batch-size", "2", "--dates", "3", *LOOP)


def proposed(out):
    """The commands of the line that says what comes next."""
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    commands = line.removeprefix("next: ").partition(" (")[0].split("; ")
    return [shlex.split(one.removeprefix("eokit ")) for one in commands]


@pytest.mark.parametrize(
    ("folds", "labels", "verbs"),
    [
        ((1, 2, 3), ("semantic",), ["evaluate", "finetune"]),
        ((1, 1, 1), ("semantic",), ["finetune"]),
        ((1, 2, 3), ("kinds", "main"), ["evaluate", "finetune"]),
        ((1, 2, 3), (), ["embed"]),
    ],
)
def test_after_pretraining_only_what_the_store_allows_is_proposed(eokit, tmp_path, folds, labels, verbs):
    store = labelled_store(tmp_path / "toy.zarr", folds=folds * 2, labels=labels)
    code, out, _ = eokit("pretrain", "--data", store.path, "--out", "run", *PRETRAIN, *SMALL)
    assert code == 0
    commands = proposed(out)
    assert [verb for verb, *_ in commands] == verbs
    for command in commands:
        quick = FINETUNE if command[0] == "finetune" else ("--device", "cpu")
        code, _, err = eokit(*command, *quick, "--dry-run") if command[0] != "evaluate" else eokit(*command, *quick)
        assert code == 0, err


def test_a_patch_size_is_proposed_where_that_of_the_bundle_does_not_fit(tmp_path):
    from eokit_cli.next_steps import after_pretraining

    store = many_sensors(tmp_path / "toy.zarr")
    bundle = anysat_bundle(tmp_path / "b", store, patch_metres=30)
    line = after_pretraining(bundle, tmp_path, store.path)
    assert line.count("--patch-metres 20") == 2
    assert "--patch-metres" not in after_pretraining(anysat_bundle(tmp_path / "c", store), tmp_path, store.path)


def test_nothing_is_proposed_for_images_that_are_no_whole_number_of_patches(tmp_path):
    from eokit_cli.next_steps import after_pretraining

    whole = labelled_store(tmp_path / "whole.zarr", folds=(1, 2, 3) * 2)
    bundle = random_bundle(tmp_path / "b", whole)
    odd = make_store(tmp_path / "odd.zarr", make_source((3, 4, 5), size=9, bands=10))
    line = after_pretraining(bundle, tmp_path, odd.path)
    assert "images of 9 x 9 px do not divide into patches of" in line
    assert "eokit" not in line


@pytest.fixture
def single(tmp_path):
    """A store of one fold and a bundle for it."""
    store = labelled_store(tmp_path / "single.zarr", folds=(1,) * 6)
    return store, random_bundle(tmp_path / "b", store)


def test_after_finetuning_on_a_store_of_one_fold_a_map_is_proposed(eokit, single, tmp_path):
    store, bundle = single
    code, out, _ = eokit("finetune", bundle, "--data", store.path, "--out", "crops", *FINETUNE)
    assert code == 0
    (command,) = proposed(out)
    assert command == ["predict", "crops", str(store.path), "map.tif"]
    assert eokit(*command, "--device", "cpu")[0] == 0


def test_a_store_of_one_fold_is_scored_by_a_head_that_learned_elsewhere(eokit, single, tmp_path):
    elsewhere = labelled_store(tmp_path / "other.zarr", folds=(2, 3) * 3)
    code, _, _ = eokit("finetune", single[1], "--data", elsewhere.path, "--out", "crops", *FINETUNE)
    assert code == 0
    code, out, err = eokit("evaluate", "crops", "--data", single[0].path, "--device", "cpu")
    assert code == 0, err
    assert "test 1" in out


def test_a_probe_of_a_store_of_one_fold_is_exit_3_with_the_way_out(eokit, single):
    code, _, err = eokit("evaluate", single[1], "--data", single[0].path)
    assert code == 3
    assert "has no test fold left (it has one, 1): samples cannot be both learned from and scored" in err
