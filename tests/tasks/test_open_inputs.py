"""A bundle without statistics standardises each store by its own, and is held to the bands its weights know."""

from __future__ import annotations

import pytest

from eokit.data.statistics import make_preprocessing
from eokit.errors import DataError, UsageError, WeightsError
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.study import EvaluateSettings
from eokit.mapping.patches import open_store
from eokit.models.bundle import load_bundle
from eokit.tasks.inputs import match_inputs
from eokit.training.finetune import FinetuneSettings, finetune
from tests.training.labelled_stores import labelled_store

from .many_sensors import anysat_bundle, many_sensors


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return many_sensors(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return anysat_bundle(tmp_path_factory.mktemp("bundle") / "b")


def match(bundle, store):
    return match_inputs(load_bundle(bundle).preprocessing, store, "bundle")


def test_every_modality_that_is_taken_gets_the_statistics_of_the_store(bundle, store):
    matched, notes = match(bundle, store)
    assert matched == make_preprocessing(store, ["s2", "s1-asc", "spot"])
    assert "s2, s1-asc, spot: standardised by the statistics of" in notes[-1]


def test_what_the_model_does_not_take_is_left_out_with_a_note(tmp_path, store):
    matched, notes = match(anysat_bundle(tmp_path / "b", modalities={"s2": 10}), store)
    assert list(matched.inputs) == ["s2"]
    assert notes[0] == "s1-asc, spot: not taken by the model, left out"
    assert len(notes) == 2


def test_bands_in_another_order_are_refused_with_both_orders(tmp_path, bundle):
    turned = many_sensors(tmp_path / "turned.zarr", spot={"bands": ("B", "G", "R")})
    with pytest.raises(WeightsError, match="spot holds bands B G R, the weights expect R G B in this order"):
        match(bundle, turned)


def test_a_modality_that_does_not_fit_can_be_left_out_by_name(tmp_path, bundle):
    turned = many_sensors(tmp_path / "turned.zarr", spot={"bands": ("B", "G", "R")})
    matched, notes = match_inputs(load_bundle(bundle).preprocessing, turned, "bundle", ("s2", "s1-asc"))
    assert list(matched.inputs) == ["s2", "s1-asc"]
    assert notes[-1].startswith("s2, s1-asc: standardised")
    with pytest.raises(UsageError, match="modality 'naip' is not among s2, s1-asc, spot"):
        match_inputs(load_bundle(bundle).preprocessing, turned, "bundle", ("naip",))


def test_pixels_of_another_size_are_refused(tmp_path, bundle):
    coarse = many_sensors(tmp_path / "coarse.zarr", s2={"gsd": 20.0})
    with pytest.raises(WeightsError, match="s2 has pixels of 20 m, the weights expect 10 m"):
        match(bundle, coarse)


def test_bands_of_other_names_are_told(tmp_path, bundle):
    named = many_sensors(tmp_path / "named.zarr", **{"s1-asc": {"bands": ("VV", "VV-VH")}})
    assert "s1-asc: bands VV VV-VH are read as VV VH" in match(bundle, named)[1]


def test_nothing_in_common_is_refused_with_the_numbers_of_bands(tmp_path, bundle):
    four = labelled_store(tmp_path / "four.zarr", folds=(1,), bands=("B02", "B03", "B04", "B08"))
    with pytest.raises(WeightsError, match=r"takes \(bands\) s2 \(10\), .*has s2 \(4\): no modality of so many bands"):
        match(bundle, four)


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_modalities_of_other_resolutions_are_scored_on_the_grid_of_the_labels(bundle, store, protocol):
    report = evaluate(EvaluateSettings(bundle=bundle, data=store.path, protocol=protocol, device="cpu", quiet=True))
    labelled = sum(int((store.read_label("semantic", one) != 3).sum()) for one in store.select([2]))
    assert report.matrix.sum() == (labelled if protocol == "linear" else 2 * 4 * 4)
    assert report.provenance["modalities"] == ["s2", "s1-asc", "spot"]
    assert any("over all its folds" in note for note in report.notes)


def test_a_head_learned_on_an_open_bundle_keeps_the_statistics_it_learned_with(bundle, store, tmp_path):
    loop = {"steps": 1, "batch_size": 2, "workers": 0, "device": "cpu"}
    settings = {"bundle": bundle, "data": store.path, "out": tmp_path / "head", "head": "linear", "loop": loop}
    finetune(FinetuneSettings(**settings, crop=None, quiet=True))
    assert load_bundle(tmp_path / "head").preprocessing == match(bundle, store)[0]


def test_labels_finer_than_the_series_are_all_counted(bundle, tmp_path):
    source = many_sensors(tmp_path / "toy.zarr", labels=(160, 160))
    settings = EvaluateSettings(bundle=bundle, data=source.path, protocol="linear", device="cpu", quiet=True)
    labelled = sum(int((source.read_label("semantic", one) != 3).sum()) for one in source.select([2]))
    assert evaluate(settings).matrix.sum() == labelled


def test_labels_that_do_not_divide_into_patches_are_refused_with_both_sizes(bundle, tmp_path):
    source = many_sensors(tmp_path / "toy.zarr", labels=(14, 14))
    with pytest.raises(DataError, match="labels of 14 x 14 pixels do not divide into 4 x 4 tokens"):
        evaluate(EvaluateSettings(bundle=bundle, data=source.path, protocol="knn", device="cpu", quiet=True))


def test_maps_are_drawn_on_one_grid_and_say_what_they_leave_out(bundle, store):
    (area,) = open_store(store.path, load_bundle(bundle).preprocessing)
    assert list(area.scenes[0].scene.days) == ["s2", "s1-asc"]
    assert area.notes[-1] == "spot: on another grid than s2, the map is drawn without"
