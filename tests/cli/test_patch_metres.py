"""`--patch-metres`, of a bundle whose own patch size does not cut the store into whole patches."""

from __future__ import annotations

import json

import pytest

from tests.tasks.many_sensors import anysat_bundle, many_sensors
from tests.training.labelled_stores import labelled_store, random_bundle

QUICK = ("--steps", "2", "--batch-size", "2", "--dates", "2", "--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return many_sensors(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return anysat_bundle(tmp_path_factory.mktemp("bundle") / "b", store, patch_metres=30)


def calls(bundle, store):
    return {
        "evaluate": ("evaluate", bundle, "--data", store.path, "--protocol", "knn"),
        "finetune": ("finetune", bundle, "--data", store.path, "--out", "crops", *QUICK),
        "embed": ("embed", bundle, store.path, "x.zarr"),
    }


@pytest.mark.parametrize("verb", ["evaluate", "finetune", "embed"])
@pytest.mark.parametrize(("given", "whose"), [((), "30 m, as the bundle keeps them"), ((50,), "--patch-metres 50")])
def test_a_size_that_does_not_fit_is_exit_2_and_those_that_do_are_named(eokit, bundle, store, verb, given, whose):
    option = ("--patch-metres", *given) if given else ()
    code, _, err = eokit(*calls(bundle, store)[verb], *option)
    assert code == 2
    assert whose in err
    assert "160 m of s2, s1-asc, spot do not divide into whole ones" in err
    assert err.rstrip().endswith("give --patch-metres 10 or 20 or 40 or 80 or 160")


def test_evaluate_and_embed_take_the_size_that_is_given(eokit, bundle, store):
    code, out, _ = eokit(*calls(bundle, store)["evaluate"], "--patch-metres", 80, "--json")
    assert (code, json.loads(out)["provenance"]["model"]["patch_metres"]) == (0, 80)
    code, out, _ = eokit(*calls(bundle, store)["embed"], "--patch-metres", 80, "--json")
    assert (code, json.loads(out)["shape"]) == (0, [64, 2, 2])


def test_what_finetune_makes_keeps_the_size_that_it_learned_with(eokit, bundle, store, tmp_path):
    assert eokit(*calls(bundle, store)["finetune"], "--patch-metres", 20)[0] == 0
    assert json.loads((tmp_path / "crops" / "bundle.json").read_text())["model"]["patch_metres"] == 20
    score = ("evaluate", "crops", "--data", store.path, "--folds", 2)
    assert eokit(*score)[0] == eokit(*score, "--patch-metres", 20)[0] == 0
    code, _, err = eokit(*score, "--patch-metres", 40)
    assert code == 2
    assert "--patch-metres 40: the head of crops learned on patches of 20 m; leave it out" in err


def test_windows_of_finetune_are_cut_into_whole_patches_too(eokit, bundle, store):
    code, _, err = eokit(*calls(bundle, store)["finetune"], "--patch-metres", 40, "--crop", 6)
    assert code == 2
    assert "60 m of s2, s1-asc, spot (crop 6) do not divide" in err
    assert err.rstrip().endswith("give --patch-metres 10 or 20")


def test_a_family_with_patches_of_pixels_has_no_such_choice(eokit, tmp_path):
    plain = labelled_store(tmp_path / "plain.zarr")
    for verb in ("evaluate", "finetune"):
        call = calls(random_bundle(tmp_path / verb, plain), plain)[verb]
        code, _, err = eokit(*call, "--patch-metres", 40)
        assert code == 2
        assert "the patches of cropsts are 4 pixels" in err


def test_a_baseline_has_no_patches(eokit, store):
    code, _, err = eokit("evaluate", "--data", store.path, "--protocol", "raw-linear", "--patch-metres", 40)
    assert code == 2
    assert "raw-linear reads the raw series" in err
