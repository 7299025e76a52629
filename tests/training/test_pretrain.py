"""Pretraining: what it chooses, what it writes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from eokit.config import load_settings
from eokit.errors import ArgumentError, DataError, EokitError, UsageError
from eokit.models.bundle import load_bundle
from eokit.training import plan_cropsts as module
from eokit.training.checkpoint import checkpoints
from eokit.training.events import read_events
from eokit.training.plan import kept_encoder
from eokit.training.pretrain import PretrainSettings, lay_out, pretrain, try_out
from tests.training.small_stores import SMALL, store_with_fields, store_without_parcels


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_with_fields(tmp_path_factory.mktemp("stores") / "fields.zarr")


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A finished run, read by several tests."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return pretrain(settings(store, out))


def settings(store, out=None, **changes):
    loop = SMALL["loop"] | changes.pop("loop", {})
    values = SMALL | {"data": store.path, "out": out, "quiet": True, "loop": loop} | changes
    return PretrainSettings.model_validate(values)


def tensors(run):
    return load_file(checkpoints(run / "checkpoints")[-1] / "state.safetensors")


def holds(run, part):
    """Whether the bundle of `run` has the weights of this part of the recipe."""
    kept, state = load_bundle(run.bundle).encoder.state_dict(), tensors(run.bundle.parent)
    return all(torch.equal(value, state[f"recipe.{part}.{name}"]) for name, value in kept.items())


def test_the_bundle_of_a_short_run_holds_the_student(run):
    assert holds(run, "encoder")
    assert not holds(run, "teacher")


def test_the_bundle_holds_the_teacher_once_that_has_forgotten_its_start(store, tmp_path):
    result = pretrain(settings(store, tmp_path / "run", jepa={"momentum": [0.1, 0.1]}))
    assert holds(result, "teacher")
    assert load_bundle(result.bundle).provenance["encoder"] == "teacher"


def test_the_bundle_says_how_it_came_to_be(run):
    told = load_bundle(run.bundle).provenance
    wanted = {
        "dataset": "toy",
        "synthetic": True,
        "folds": [1],
        "samples": 3,
        "steps": 4,
        "seed": 0,
        "masks": "parcels",
    }
    assert told.items() >= wanted.items()


def test_the_bundle_normalises_by_the_training_folds(run, store):
    from eokit.data.statistics import make_preprocessing

    assert load_bundle(run.bundle).preprocessing == make_preprocessing(store, ("s2",), (1,))


def test_the_settings_of_a_run_have_no_gaps(run):
    kept = yaml.safe_load((run.bundle.parent / "settings.yaml").read_text())
    assert (kept["folds"], kept["modalities"], kept["loop"]["steps"]) == ([1], ["s2"], 4)
    assert load_settings(PretrainSettings, run.bundle.parent / "settings.yaml").loop == run.settings.loop


def test_the_figures_that_tell_a_collapse_are_logged(run):
    event = read_events(run.bundle.parent, "train")[0]
    assert event.keys() >= {"loss", "feature_std", "effective_rank", "samples_s", "data_wait"}


def test_a_continued_pretraining_has_the_bits_of_a_whole_one(run, store, tmp_path):
    pretrain(settings(store, tmp_path / "run"))
    checkpoints(tmp_path / "run" / "checkpoints")[-1].rename(tmp_path / "later")
    pretrain(settings(store, tmp_path / "run", resume="auto"))
    ours, theirs = tensors(tmp_path / "run"), tensors(run.bundle.parent)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_loss_that_is_no_longer_a_number_names_the_last_good_checkpoint(store, tmp_path):
    wild = {"lr": 1e30, "clip": None, "warmup": 0.0, "log_every": 4}
    with pytest.raises(EokitError, match=r"(loss|grad_norm) is (nan|inf) at step .* last good checkpoint is none yet"):
        pretrain(settings(store, tmp_path / "run", loop=wild))


def test_masks_are_said_to_hide_parcels(store):
    assert lay_out(settings(store)).notes[-1] == "masks hide parcels"


def test_a_store_without_parcels_is_said_to_get_blocks(tmp_path):
    plan = lay_out(settings(store_without_parcels(tmp_path / "s.zarr")))
    assert plan.notes[-1] == "masks hide blocks: the store has no layer 'parcel'"


def test_test_folds_are_left_out_and_that_is_said(store):
    plan = lay_out(settings(store))
    assert set(store.folds[plan.dataset.indices]) == {1}
    assert "training on folds 1; 2 are left to validate and test" in plan.notes


def test_folds_can_be_chosen(store):
    assert len(lay_out(settings(store, folds=(1, 2))).dataset) == 6


def test_epochs_become_steps(store):
    told = settings(store, folds=(1, 2), epochs=10).model_dump()
    plan = lay_out(PretrainSettings.model_validate(told | {"loop": {"batch_size": 4}}))
    assert plan.settings.loop.steps == 15


def test_a_run_has_one_length(store):
    with pytest.raises(UsageError, match="steps = 4 and epochs = 10"):
        lay_out(settings(store, epochs=10))


def test_presets_choose_batch_and_length(store):
    plan = lay_out(PretrainSettings(data=store.path, preset="tiny"))
    assert plan.settings.loop.batch_size == module.SCALES["tiny"].batch_size
    assert plan.settings.loop.steps == module.SCALES["tiny"].steps


def test_the_crop_is_no_larger_than_the_store(store):
    assert lay_out(PretrainSettings(data=store.path, preset="paper")).settings.crop == 48


@pytest.mark.parametrize("modalities", [("s2", "s1-asc"), ("s1-asc",)])
def test_the_encoder_takes_the_modalities_asked_for(store, modalities):
    assert lay_out(settings(store, modalities=modalities)).recipe.encoder.modalities == modalities


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"crop": 18}, UsageError, "crop = 18 px does not divide into patches of 4 px"),
        ({"crop": 96}, ArgumentError, "crop = 96"),
        ({"modalities": ("spot",)}, UsageError, "modality 'spot' is not in .*; it has s2, s1-asc"),
        ({"preset": "huge"}, UsageError, "no preset 'huge'"),
        ({"jepa": {"momentun": 1}}, UsageError, "unknown key momentun"),
        ({"encoder": {"deep": 1}}, UsageError, "unknown key deep"),
        ({"folds": (7,)}, DataError, "7"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(store, tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        pretrain(settings(store, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_resuming_needs_the_folder_named(store):
    with pytest.raises(UsageError, match="--out DIR"):
        pretrain(settings(store, None, resume="auto"))


def test_a_dry_run_counts_parameters_and_writes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan, cost = try_out(settings(store, tmp_path / "run"))
    recipe = plan.recipe
    assert cost.trained == sum(one.numel() for one in recipe.parameters()) - sum(
        one.numel() for one in recipe.teacher.parameters()
    )
    assert cost.steps == 4
    assert cost.step_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_batch_keeps_is_estimated_alike_from_few_and_from_many_samples(store, monkeypatch):
    few = try_out(settings(store, loop={"batch_size": 8}))[1].activation_bytes
    monkeypatch.setattr(module, "PROBE", 8)
    many = try_out(settings(store, loop={"batch_size": 8}))[1].activation_bytes
    assert few == pytest.approx(many, rel=0.02)  # position codes are as large for any batch


def test_a_larger_batch_is_estimated_to_keep_more(store):
    small, large = (try_out(settings(store, loop={"batch_size": size}))[1] for size in (4, 8))
    assert large.activation_bytes == 2 * small.activation_bytes
    assert large.state_bytes == small.state_bytes


def test_long_runs_keep_the_teacher_and_short_ones_the_student(store):
    recipe = lay_out(settings(store)).recipe
    assert kept_encoder(recipe, 9_000) == "teacher"
    assert kept_encoder(recipe, 500) == "student"


@pytest.mark.slow
def test_two_processes_pretrain_like_one(store, run, tmp_path):
    options = [
        "-o",
        "encoder.width=32",
        "-o",
        "encoder.depth=2",
        "-o",
        "encoder.heads=2",
        "-o",
        "dates=4",
        "-o",
        "crop=16",
    ]
    loop = [part for key, value in SMALL["loop"].items() for part in ("-o", f"loop.{key}={value}")]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "eokit_cli.main",
    ]
    command = [*launch, "pretrain", "--data", str(store.path), "--out", str(tmp_path / "two"), *options, *loop]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    one, two = (
        [event["loss"] for event in read_events(path, "train")] for path in (run.bundle.parent, tmp_path / "two")
    )
    # The same sums in another order: float32 rounding, grown over 4 steps.
    assert two == pytest.approx(one, rel=1e-5)
    assert done.stdout.count("next: ") == 1
