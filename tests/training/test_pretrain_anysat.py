"""Pretraining of AnySat: several stores with other sensors, resumed, on two processes, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eokit.data.store import Store
from eokit.errors import DataError, Interrupted, UsageError
from eokit.models.anysat.sensors import SENSORS
from eokit.models.bundle import load_bundle
from eokit.tasks.inputs import match_inputs
from eokit.training.checkpoint import checkpoints
from eokit.training.events import read_events
from eokit.training.plan_anysat import patch_sizes
from eokit.training.pretrain import PretrainSettings, lay_out, pretrain, try_out
from tests.data.stores import MemorySource, make_source, make_store

LOOP = {"steps": 6, "batch_size": 2, "workers": 0, "log_every": 1, "save_every": 2, "device": "cpu"}
VALUES = {
    "model": "anysat",
    "encoder": {"width": 64, "depth": 1},
    "jepa": {"predictor_depth": 1},
    "dates": 3,
    "crop": 12,
    "loop": LOOP,
    "quiet": True,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "plain.zarr", make_source((5, 6, 4, 7), bands=10))
    make_store(folder / "fine.zarr", make_source((5, 6, 4, 7, 3), bands=10, spot=True))
    return folder / "plain.zarr", folder / "fine.zarr"


def settings(stores, out=None, **changes):
    return PretrainSettings.model_validate(VALUES | {"data": stores, "out": out} | changes)


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    return pretrain(settings(stores, tmp_path_factory.mktemp("runs") / "run"))


def test_stores_with_other_sensors_train_together(run):
    events = list(read_events(run.bundle.parent, "train"))
    assert all(np.isfinite(event["loss"]) for event in events)
    bundle = load_bundle(run.bundle)
    assert set(bundle.encoder.projectors) == {"s2", "s1-asc", "spot"}
    assert set(bundle.preprocessing.inputs) == {"s2", "s1-asc", "spot"}
    assert bundle.provenance["dataset"] == "toy, toy"
    assert bundle.provenance["synthetic"] is True


def test_an_interrupted_run_ends_with_the_bits_of_a_whole_one(run, stores, tmp_path, monkeypatch):
    from eokit.training import engine

    out, calls = tmp_path / "run", []

    def stop_once(model, batches, *rest):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), 2)
        return forward_backward(model, batches, *rest)

    forward_backward = engine.forward_backward
    monkeypatch.setattr(engine, "forward_backward", stop_once)
    with pytest.raises(Interrupted):
        pretrain(settings(stores, out))
    again = pretrain(settings(stores, out, resume="auto"))
    whole, resumed = (
        load_file(checkpoints(one.bundle.parent / "checkpoints")[-1] / "state.safetensors") for one in (run, again)
    )
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_without_stores_every_one_in_data_that_holds_a_known_sensor_is_taken(stores, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for path in stores:
        (tmp_path / "data" / path.name).symlink_to(path)
    make_store(tmp_path / "data" / "strange.zarr", strange())
    monkeypatch.chdir(tmp_path)
    plan = lay_out(settings(None))
    assert [store.path.name for store in plan.stores] == ["fine.zarr", "plain.zarr"]
    assert plan.notes[0] == "pretraining on data/fine.zarr, data/plain.zarr"


def test_the_bundle_reads_both_stores_where_a_modality_has_other_bands(stores, tmp_path):
    source = make_source((5, 6, 4, 7), bands=10)
    s2, s1 = source.spec.modalities
    ratio = replace(s1, bands=(*s1.bands, "VV-VH"), shape=(3, *s1.shape[1:]))
    make_store(tmp_path / "ratio.zarr", MemorySource(replace(source.spec, modalities=(s2, ratio)), source.entries))
    both = (stores[0], tmp_path / "ratio.zarr")
    bundle = load_bundle(pretrain(settings(both, tmp_path / "run", loop=LOOP | {"steps": 1})).bundle)
    for path, bands in zip(both, (2, 3), strict=True):
        matched, notes = match_inputs(bundle.preprocessing, Store.open(path), "bundle")
        assert {name: len(one.bands) for name, one in matched.inputs.items()} == {"s2": 10, "s1-asc": bands}
        assert notes == []
        assert bundle.encoder.takes("s1-asc", bands)


def strange():
    """A source of one modality that is no sensor of AnySat."""
    source = make_source((3, 4), bands=4)
    modalities = (source.spec.modalities[0],)
    return MemorySource(replace(source.spec, modalities=modalities), source.entries)


def test_the_bundle_has_a_patch_size_that_its_stores_can_be_cut_into(stores):
    plan = lay_out(settings(stores))
    assert {part.scales for part in plan.dataset.parts} == {(10, 20, 30, 40)}
    assert plan.recipe.encoder.config.patch_metres == 30
    assert lay_out(settings(stores, encoder={"patch_metres": 20})).recipe.encoder.config.patch_metres == 20


def test_weights_decide_how_often_a_store_comes(stores):
    plan = lay_out(settings(stores, weights=(3.0, 1.0)))
    assert [part.weight for part in plan.dataset.parts] == [3.0, 1.0]


@pytest.mark.parametrize(
    ("window", "sensors", "sizes"),
    [
        (60, ("aerial", "s2", "s1-asc"), (10, 20)),
        (100, ("aerial-flair", "s2"), (10, 20)),
        (120, ("s2", "s1", "l7", "alos", "modis"), (30,)),
        (640, ("naip", "s2", "s1", "l8"), (20, 40, 80, 160)),
        (1280, ("s2", "s1", "spot"), (40, 80, 160)),
    ],
)
def test_patch_sizes_are_those_that_fit_the_tile_and_all_its_sensors(window, sensors, sizes):
    assert patch_sizes(window, tuple(SENSORS[name] for name in sensors), None, "store") == sizes


def test_a_patch_size_that_fits_nothing_is_refused(stores):
    with pytest.raises(UsageError, match="no patch size of 50 m cuts 120 m of s2, s1-asc into several whole patches"):
        lay_out(settings(stores[:1], scales=(50,)))


def test_one_patch_alone_is_refused_as_there_is_nothing_to_predict(stores):
    with pytest.raises(UsageError, match="no patch size of 120 m cuts 120 m"):
        lay_out(settings(stores[:1], scales=(120,)))


def test_the_rate_is_that_of_the_preset_where_none_is_given(stores):
    loop = {"steps": 1, "batch_size": 2, "workers": 0, "device": "cpu"}
    assert lay_out(settings(stores, preset="tiny", loop=loop)).settings.loop.lr == 1e-4
    assert lay_out(settings(stores, preset="base", loop=loop)).settings.loop.lr == 5e-5
    assert lay_out(settings(stores, preset="tiny", loop=loop | {"lr": 3e-4})).settings.loop.lr == 3e-4


def test_a_store_without_a_wanted_modality_is_refused(stores):
    with pytest.raises(DataError, match=r"plain\.zarr has no modality of spot"):
        lay_out(settings(stores, modalities=("spot",)))


def test_a_modality_that_no_store_has_is_refused(stores):
    with pytest.raises(UsageError, match="no store has sopt; they have s1-asc, s2, spot"):
        lay_out(settings(stores, modalities=("s2", "sopt")))


def test_no_store_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"data holds no store: name stores with --data"):
        lay_out(settings(None))


def test_cropsts_takes_one_store(stores):
    with pytest.raises(UsageError, match="cropsts pretrains on one store, 2 are given"):
        lay_out(PretrainSettings(data=stores))


def test_a_dry_run_tries_a_step_and_writes_nothing(stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, cost = try_out(settings(stores, tmp_path / "run"))
    assert cost.step_seconds > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_see_the_samples_of_one(run, stores, tmp_path):
    values = [("encoder.width", 64), ("encoder.depth", 1), ("jepa.predictor_depth", 1), ("dates", 3), ("crop", 12)]
    values += [(f"loop.{key}", value) for key, value in LOOP.items()]
    options = [part for key, value in values for part in ("-o", f"{key}={value}")]
    data = [part for path in stores for part in ("--data", str(path))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = [*launch, "eokit_cli.main", "pretrain", "--model", "anysat", *data, "--out", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], env=env, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        [event["jepa"] for event in read_events(path, "train")] for path in (run.bundle.parent, tmp_path / "two")
    )
    # Before the first update the two see the same; the contrast is within a process, so later steps differ.
    assert two[0] == pytest.approx(one[0], rel=1e-4)
