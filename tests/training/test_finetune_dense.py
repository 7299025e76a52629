"""Segmentation from dense features and on other grids, of small synthetic stores with a small AnySat."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from eokit.data.preprocessing import Preprocessing
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.data.writer import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.errors import UsageError, WeightsError
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.study import EvaluateSettings
from eokit.mapping.inference import load_predictor
from eokit.mapping.predict import PredictSettings, predict
from eokit.models.bundle import Bundle, load_bundle, save_bundle
from eokit.models.registry import build_encoder
from eokit.training.finetune import FinetuneLoop, FinetuneSettings, finetune, lay_out, try_out
from tests.data.stores import BANDS, MemorySource, make_store
from tests.training.labelled_stores import SIZE, labelled_store, random_bundle

AERIAL = ("R", "G", "B", "NIR", "nDSM")
METRES = 20
CELLS = METRES // 2
"""Sub-patches along a fine tile; each is of one class."""


class FineLabels(MemorySource):
    """Tiles of 20 m: an aerial image and labels of 0.2 m, in squares of 2 m whose pixels say their class, and S2."""

    def cells(self, entry: Entry) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(entry.id.encode()))
        return np.kron(rng.integers(0, 2, (CELLS, CELLS)), np.ones((10, 10), int))

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        if modality == "s2":
            return super().read(entry, modality)
        return np.broadcast_to(60 + 120 * self.cells(entry), (1, 5, 100, 100)).astype(np.uint8)

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        return {"semantic": self.cells(entry).astype(np.uint8)}


@pytest.fixture(scope="module")
def fine(tmp_path_factory) -> Store:
    modalities = (
        ModalitySpec("aerial-flair", "aerial-flair", AERIAL, (5, 100, 100), "uint8", nodata=None, gsd=0.2),
        ModalitySpec("s2", "sentinel-2", BANDS, (10, 2, 2)),
    )
    label = LabelSpec("semantic", "uint8", (100, 100), ("grass", "roof"))
    days = {"aerial-flair": np.array([18_000], np.int32), "s2": np.arange(17_900, 18_000, 20, dtype=np.int32)}
    entries = [Entry(id=f"p{number}", fold=1 + number % 5, days=days) for number in range(10)]
    spec = StoreSpec("fine", "A synthetic toy", "CC0", "nobody", True, modalities, (label,))
    return make_store(tmp_path_factory.mktemp("data") / "fine.zarr", FineLabels(spec, entries))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


def anysat(path: Path, store: Store, metres: int) -> Path:
    torch.manual_seed(3)
    preprocessing = make_preprocessing(store, tuple(store.modalities), (1, 2, 3))
    modalities = {name: len(spec.bands) for name, spec in store.modalities.items()}
    config = {"modalities": modalities, "width": 64, "depth": 1, "patch_metres": metres}
    return save_bundle(path, Bundle(build_encoder("anysat", None, config), preprocessing))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store) -> Path:
    return anysat(tmp_path_factory.mktemp("bundle") / "b", store, 40)


@pytest.fixture(scope="module")
def fine_bundle(tmp_path_factory, fine) -> Path:
    return anysat(tmp_path_factory.mktemp("bundle") / "fine", fine, 10)


@pytest.fixture
def settings(store, bundle, tmp_path):
    def make(steps: int = 4, **changes) -> FinetuneSettings:
        loop = FinetuneLoop(steps=steps, batch_size=4, workers=0, device="cpu")
        values = {"bundle": bundle, "data": store.path, "out": tmp_path / "out", "head": "dense", "dates": 3}
        return FinetuneSettings(**(values | changes), quiet=True, loop=loop)

    return make


def score(bundle: Path, store: Store, **changes):
    values = {"bundle": bundle, "data": store.path, "dates": 3, "quiet": True, "batch_size": 4, "device": "cpu"}
    return evaluate(EvaluateSettings(**(values | changes)))


@pytest.mark.parametrize("mode", ["full", "head-only"])
def test_the_chain_goes_on_from_a_dense_head_to_scores_and_a_map(settings, store, tmp_path, mode):
    made = finetune(settings(mode=mode))
    assert load_bundle(made.bundle).encoder.config.dense == "s2"
    again = score(made.bundle, store, folds=(4,))
    assert (again.protocol, again.details["head"]) == ("finetuned", "dense")
    assert again.scores["miou"] == pytest.approx(made.fit.best_metric, abs=1e-6)
    where = PredictSettings(bundle=made.bundle, source=store.path, out=tmp_path / "map.tif", folds=(5,), quiet=True)
    predict(where)
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert (drawn.read(1) != 255).sum() == 3 * SIZE * SIZE


@pytest.mark.parametrize("mode", ["full", "frozen", "head-only"])
def test_a_dense_head_learns_what_is_within_a_patch(settings, store, tmp_path, mode):
    whole = anysat(tmp_path / "whole", store, 160)  # one patch of 16 x 16 pixels, four fields in it
    made = finetune(settings(bundle=whole, mode=mode, steps=2))
    assert made.fit.best_metric > 0.7


def test_a_linear_probe_of_dense_features_sees_what_is_within_a_patch(store, tmp_path):
    whole = anysat(tmp_path / "whole", store, 160)
    patch, dense = (score(whole, store, protocol="linear", folds=(4,), features=one) for one in ("patch", "dense"))
    assert dense.details["dense"] == "s2"
    assert dense.scores["miou"] > patch.scores["miou"] + 0.3


@pytest.mark.parametrize(("head", "mode"), [("dense", "full"), ("dense", "head-only"), ("linear", "frozen")])
def test_labels_finer_than_10_m_are_learned_and_scored(settings, fine, fine_bundle, head, mode):
    plan = lay_out(settings(bundle=fine_bundle, data=fine.path, head=head, mode=mode))
    assert plan.recipe.model.patch == 50
    made = finetune(settings(bundle=fine_bundle, data=fine.path, head=head, mode=mode))
    again = score(made.bundle, fine, folds=(4,))
    assert again.scores["miou"] == pytest.approx(made.fit.best_metric, abs=1e-6)
    if head == "dense":
        assert load_bundle(made.bundle).encoder.config.dense == "aerial-flair"
        assert made.fit.best_metric > 0.8  # patches of 10 m hold 25 squares, half of each class


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_probes_count_every_label_finer_than_10_m(fine, fine_bundle, protocol):
    report = score(fine_bundle, fine, protocol=protocol)
    assert report.matrix.sum() == (2 * 100 * 100 if protocol == "linear" else 2 * 4)


def test_a_dry_run_tries_every_modality_on_its_own_grid(settings, fine, fine_bundle):
    for mode in ("full", "head-only"):
        _, cost = try_out(settings(bundle=fine_bundle, data=fine.path, mode=mode))
        assert cost.loss > 0


def test_a_map_is_drawn_on_the_grid_of_the_first_modality_only(settings, fine, fine_bundle, tmp_path):
    made = finetune(settings(bundle=fine_bundle, data=fine.path))
    assert load_predictor(made.bundle, "cpu").patch_size == 50
    bundle = load_bundle(made.bundle)
    turned = Preprocessing(dict(reversed(bundle.preprocessing.inputs.items())))
    with pytest.raises(UsageError, match="draws 50 x 50 labels where s2 has 1 x 1 pixels"):
        load_predictor(save_bundle(tmp_path / "other", replace(bundle, preprocessing=turned)), "cpu")


def test_the_modality_of_dense_features_can_be_chosen(settings, fine, fine_bundle):
    plan = lay_out(settings(bundle=fine_bundle, data=fine.path, dense="s2"))
    assert plan.recipe.model.encoder.config.dense == "s2"
    assert "dense features of s2" in plan.notes


def test_a_dense_head_needs_its_modality(settings, store, fine, fine_bundle):
    made = finetune(settings(bundle=fine_bundle, data=fine.path))
    with pytest.raises(WeightsError, match="its head reads dense features of aerial-flair, which is left out here"):
        score(made.bundle, fine, modalities=("s2",))


def test_an_encoder_without_dense_features_is_refused(settings, store, tmp_path):
    with pytest.raises(UsageError, match="cropsts has no dense features of s2"):
        lay_out(settings(bundle=random_bundle(tmp_path / "b", store)))
    with pytest.raises(UsageError, match="cropsts has no dense features of s2"):
        score(tmp_path / "b", store, protocol="linear", features="dense")


def test_a_modality_for_another_head_is_refused(settings):
    with pytest.raises(UsageError, match="dense = 's2' is for --head dense, not for conv"):
        lay_out(settings(head="conv", dense="s2"))


def test_dense_features_are_for_the_linear_probe(store, bundle):
    with pytest.raises(UsageError, match="--features dense is for the protocol linear, not for knn"):
        score(bundle, store, protocol="knn", features="dense")


def test_what_an_encoder_holds_fixed_stays_so(settings, fine, fine_bundle):
    encoder = load_bundle(fine_bundle).encoder
    fixed = {name for name, one in encoder.named_parameters() if not one.requires_grad}
    made = lay_out(settings(bundle=fine_bundle, data=fine.path, head="dense")).recipe
    assert fixed
    assert fixed == {name for name, one in made.model.encoder.named_parameters() if not one.requires_grad}


@pytest.mark.slow
def test_two_processes_fine_tune_an_encoder_of_more_sensors_than_the_store_has(store, tmp_path):
    sensors = {name: len(spec.bands) for name, spec in store.modalities.items()} | {"spot": 3}
    encoder = build_encoder("anysat", None, {"modalities": sensors, "width": 64, "depth": 1, "patch_metres": 40})
    preprocessing = make_preprocessing(store, tuple(store.modalities), (1, 2, 3))
    bundle = save_bundle(tmp_path / "bundle", Bundle(encoder, preprocessing))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = [*launch, "eokit_cli.main", "finetune", str(bundle), "--data", str(store.path), "--steps", "3"]
    command += ["--batch-size", "4", "--dates", "3", "--workers", "0", "--out", str(tmp_path / "two")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert load_bundle(tmp_path / "two").task is not None
