"""`eokit finetune` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eokit.data.folds import Split
from eokit.training.engine import FitResult
from eokit.training.finetune import FinetuneResult, FinetuneSettings
from eokit_cli.finetune import _text
from tests.training.labelled_stores import BANDS, labelled_store, random_bundle

QUICK = ["--steps", "3", "--batch-size", "2", "--dates", "3", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


def test_the_end_says_where_the_bundle_is_and_what_comes_next(eokit, store, bundle, tmp_path):
    code, out, err = eokit("finetune", bundle, "--data", store.path, "--out", "crops", *QUICK)
    assert code == 0
    assert "bundle  crops  (trained on SYNTHETIC data)" in out
    assert f"next: eokit evaluate crops --data {store.path}" in out
    assert "train 1 2 3, validation 4, test 5" in err
    assert (tmp_path / "crops" / "bundle.json").is_file()
    assert (tmp_path / "crops.run" / "events.jsonl").is_file()


def test_the_chain_goes_on_to_evaluate(eokit, store, bundle):
    eokit("finetune", bundle, "--data", store.path, "--out", "crops", *QUICK)
    code, out, _ = eokit("evaluate", "crops", "--data", store.path, "--json")
    told = json.loads(out)
    assert (code, told["protocol"]) == (0, "finetuned")
    assert told["provenance"]["bundle_provenance"]["train_folds"] == [1, 2, 3]


def test_json_is_the_only_thing_on_stdout(eokit, store, bundle):
    code, out, _ = eokit("finetune", bundle, "--data", store.path, "--out", "crops", "--json", *QUICK)
    told = json.loads(out)
    assert (code, told["bundle"], told["step"]) == (0, "crops", 3)
    assert told["best_step"] in (0, 1, 2, 3)


@pytest.mark.parametrize("mode", ["full", "frozen", "head-only"])
def test_a_dry_run_tells_the_cost_and_writes_nothing(eokit, store, bundle, tmp_path, mode):
    code, out, _ = eokit("finetune", bundle, "--data", store.path, "--dry-run", "--mode", mode, *QUICK)
    assert code == 0
    assert all(word in out for word in ("parameters", "memory", "3 steps in", "its loss", "nothing was written"))
    assert ("features of 12 patches" in out) == (mode == "head-only")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_what_learns(eokit, store, bundle):
    def told(mode):
        _, out, _ = eokit("finetune", bundle, "--data", store.path, "--dry-run", "--json", "--mode", mode, *QUICK)
        return json.loads(out)

    full, frozen = told("full"), told("frozen")
    assert full["parameters"] == full["trained"] == frozen["parameters"]
    assert 0 < frozen["trained"] < frozen["parameters"]
    assert full["loss"] > 0


def test_labels_of_samples_are_learned_and_the_metric_is_named(eokit, bundle, tmp_path):
    several = labelled_store(tmp_path / "kinds.zarr", labels=("kinds", "main"))
    call = ("finetune", bundle, "--data", several.path, "--out", "kinds", "--label", "kinds", *QUICK)
    code, out, _ = eokit(*call, "--dry-run")
    assert (code, "nothing was written" in out) == (0, True)
    code, out, _ = eokit(*call)
    assert code == 0
    assert "best validation macro mAP" in out


def test_of_several_layers_one_has_to_be_chosen(eokit, bundle, tmp_path):
    several = labelled_store(tmp_path / "kinds.zarr", labels=("kinds", "main"))
    code, _, err = eokit("finetune", bundle, "--data", several.path, "--out", "kinds", *QUICK)
    assert code == 2
    assert "several label layers: kinds, main; choose one with --label" in err


def test_quiet_says_nothing(eokit, store, bundle):
    assert eokit("finetune", bundle, "--data", store.path, "--out", "crops", "-q", *QUICK) == (0, "", "")


def test_every_path_has_a_default(eokit, store, bundle, tmp_path):
    for name, target in (("data/toy.zarr", store.path), ("runs/some/bundle", bundle)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(target)
    assert eokit("finetune", *QUICK)[0] == 0
    assert [path for path in (tmp_path / "runs").glob("finetune-20*") if (path / "bundle.json").is_file()]


@pytest.mark.parametrize("resume", [("--resume", "auto"), ("--resume",)])
def test_resume_needs_nothing_but_the_bundle(eokit, store, bundle, resume):
    eokit("finetune", bundle, "--data", store.path, "--out", "crops", "--head", "linear", *QUICK)
    code, _, err = eokit("finetune", "--out", "crops", *resume)
    assert code == 0
    assert "going on from crops.run/checkpoints/step-000003 (3 of 3 steps done)" in err


def test_a_run_that_is_there_is_not_overwritten(eokit, store, bundle):
    eokit("finetune", bundle, "--data", store.path, "--out", "crops", *QUICK)
    code, _, err = eokit("finetune", bundle, "--data", store.path, "--out", "crops", *QUICK)
    assert code == 2
    assert "crops.run is not empty; continue it with --resume auto, or choose another --out" in err


def test_other_bands_are_exit_4_and_nothing_is_written(eokit, store, tmp_path):
    shuffled = random_bundle(tmp_path / "shuffled", store, bands=BANDS[::-1])
    code, _, err = eokit("finetune", shuffled, "--data", store.path, "--out", "crops", *QUICK)
    assert code == 4
    assert "trained on sentinel-2 bands B12 B11" in err
    assert not list(tmp_path.glob("crops*"))


def test_an_empty_fold_is_exit_3(eokit, store, bundle):
    code, _, err = eokit("finetune", bundle, "--data", store.path, "--out", "crops", "--train-folds", "8", *QUICK)
    assert code == 3
    assert "no sample in folds 8; its folds are 1, 2, 3, 4, 5" in err


def test_a_store_without_labels_is_exit_3(eokit, bundle, tmp_path):
    bare = labelled_store(tmp_path / "bare.zarr", labels=())
    code, _, err = eokit("finetune", bundle, "--data", bare.path, "--out", "crops", *QUICK)
    assert code == 3
    assert "no label layer 'semantic'" in err


def test_a_setting_that_does_not_exist_is_exit_2(eokit, store, bundle):
    code, _, err = eokit("finetune", bundle, "--data", store.path, "-o", "optimiser=sgd")
    assert code == 2
    assert "optimiser" in err


@pytest.mark.parametrize(
    ("best_step", "told"),
    [
        (0, "no step improved on the start, a linear probe of the encoder: validation mIoU 50.0 %, kept"),
        (3, "best validation mIoU 50.0 % at step 3, kept"),
    ],
)
def test_the_best_state_is_told_plainly(best_step, told):
    fitted = FitResult(4, 1.0, {}, 0.0, best_metric=0.5, best_step=best_step)
    result = FinetuneResult(Path("crops"), "miou", fitted, Split((1,), (2,), (3,)), True, ())
    lines = _text(result, FinetuneSettings(bundle=Path("b"), data=Path("s.zarr"))).splitlines()
    assert told in lines
