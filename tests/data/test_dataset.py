"""What a data set gives follows from its key alone, and dates, windows and targets belong together."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from eokit.data.collate import collate
from eokit.data.dataset import DatePolicy, Draw, SampleDataset
from eokit.data.statistics import make_preprocessing
from eokit.data.transforms import FlipRotate
from eokit.errors import ArgumentError, DataError, WeightsError
from tests.data.stores import make_source, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("dataset") / "toy.zarr", make_source((5, 9, 0, 12), spot=True))


@pytest.fixture(scope="module")
def preprocessing(store):
    return make_preprocessing(store, ["s2", "s1-asc", "spot"])


def make(store, preprocessing, **options) -> SampleDataset:
    return SampleDataset(store.path, range(len(store)), preprocessing, **options)


def assert_same(one, other):
    assert one.where == other.where
    for name in one.series:
        for part in ("values", "days", "valid"):
            torch.testing.assert_close(
                getattr(one.series[name], part), getattr(other.series[name], part), rtol=0, atol=0
            )
    for name in one.targets:
        assert torch.equal(one.targets[name], other.targets[name])


def full(store, preprocessing, **options) -> SampleDataset:
    """A data set with everything random switched on."""
    random = {"dates": DatePolicy(4), "crop": 16, "transforms": (FlipRotate(),)}
    return make(store, preprocessing, targets=("semantic", "parcel"), **random | options)


def test_a_sample_holds_normalised_pixels_days_and_targets(store, preprocessing):
    sample = make(store, preprocessing, targets=("semantic", "parcel"))[1]
    values, valid = preprocessing.apply("s2", store.read("s2", 1))
    np.testing.assert_array_equal(sample.series["s2"].values, values)
    np.testing.assert_array_equal(sample.series["s2"].valid, valid)
    assert (sample.series["s2"].days.tolist(), sample.series["s2"].days.dtype) == (
        store.days("s2", 1).tolist(),
        torch.int32,
    )
    assert (sample.series["s2"].sensor, sample.where) == ("sentinel-2", store.where(1))
    assert {one.dtype for one in sample.targets.values()} == {torch.int64}
    np.testing.assert_array_equal(sample.targets["parcel"], store.read_label("parcel", 1))


def test_the_same_draw_is_the_same_sample(store, preprocessing):
    one, other = full(store, preprocessing), full(store, preprocessing)
    other[Draw(5, 3)]
    assert_same(one[Draw(2, 3)], other[Draw(2, 3)])


def test_another_draw_is_another_sample(store, preprocessing):
    dataset = full(store, preprocessing)
    kept = {tuple(dataset[Draw(draw, 3)].series["s2"].days.tolist()) for draw in range(8)}
    assert len(kept) > 1


def test_another_seed_is_another_sample(store, preprocessing):
    crops = [make(store, preprocessing, crop=16, seed=seed)[Draw(0, 3)].where.transform for seed in range(6)]
    assert len(set(crops)) > 1


def test_loader_workers_give_what_one_process_gives(store, preprocessing):
    dataset = full(store, preprocessing)
    keys = [[Draw(0, 0), Draw(0, 3)], [Draw(1, 1), Draw(0, 2)]]
    loader = DataLoader(dataset, batch_sampler=keys, num_workers=2, collate_fn=collate)
    for batch, expected in zip(loader, keys, strict=True):
        assert_same(batch, collate([dataset[key] for key in expected]))


def test_a_pickled_data_set_gives_the_same_sample(store, preprocessing):
    dataset = full(store, preprocessing)
    assert_same(pickle.loads(pickle.dumps(dataset))[Draw(1, 1)], dataset[Draw(1, 1)])


def test_evaluation_takes_the_central_window(store, preprocessing):
    sample = make(store, preprocessing, crop=16)[3]
    values, _ = preprocessing.apply("s2", store.read("s2", 3, window=(16, 32, 16, 32)))
    np.testing.assert_array_equal(sample.series["s2"].values, values)


@pytest.mark.parametrize("key", [1, Draw(0, 1), Draw(3, 1)])
def test_modalities_and_targets_are_cut_to_the_same_ground(store, preprocessing, key):
    sample = make(store, preprocessing, crop=8, targets=("parcel",))[key]
    x = round((sample.where.transform[2] - store.where(1).transform[2]) / 10)
    y = round((sample.where.transform[5] - store.where(1).transform[5]) / -10)
    spot, _ = preprocessing.apply("spot", store.read("spot", 1, window=(10 * y, 10 * y + 80, 10 * x, 10 * x + 80)))
    np.testing.assert_array_equal(sample.series["spot"].values, spot)
    np.testing.assert_array_equal(sample.targets["parcel"], store.read_label("parcel", 1, (y, y + 8, x, x + 8)))


def test_a_crop_in_fine_pixels_falls_on_whole_coarse_ones(store, preprocessing):
    inputs = {name: preprocessing.inputs[name] for name in ("spot", "s2")}
    sample = make(store, replace(preprocessing, inputs=inputs), crop=40)[Draw(4, 0)]
    assert (sample.series["spot"].values.shape[-1], sample.series["s2"].values.shape[-1]) == (40, 4)
    with pytest.raises(
        ArgumentError, match=r"crop = 45 px of spot \(45 m\), expected at most 480 and a multiple of 10"
    ):
        make(store, replace(preprocessing, inputs=inputs), crop=45)


@pytest.mark.parametrize("crop", [0, 49])
def test_a_crop_larger_than_the_patch_is_refused(store, preprocessing, crop):
    with pytest.raises(ArgumentError, match="expected at most 48"):
        make(store, preprocessing, crop=crop)


@given(count=st.integers(0, 80), most=st.integers(1, 20), seed=st.none() | st.integers(0, 99))
def test_picked_dates_keep_their_order_and_number(count, most, seed):
    picked = DatePolicy(most).pick(count, None if seed is None else np.random.default_rng(seed))
    assert len(picked) == min(count, most)
    assert (np.diff(picked) > 0).all()
    assert all(0 <= date < count for date in picked)


def test_evaluation_spaces_the_dates_evenly():
    assert DatePolicy(4).pick(10, None).tolist() == [0, 3, 6, 9]


def test_a_sample_without_dates_is_an_empty_series(store, preprocessing):
    assert make(store, preprocessing)[2].series["s2"].values.shape == (0, 4, 48, 48)


def test_a_store_without_the_modality_is_refused(store, preprocessing):
    inputs = {"planet": preprocessing.inputs["s2"]}
    with pytest.raises(DataError, match="has no 'planet'; it has s2, s1-asc, spot"):
        make(store, replace(preprocessing, inputs=inputs))


def test_a_store_without_the_target_is_refused(store, preprocessing):
    with pytest.raises(DataError, match="has no label layer 'crop'; it has semantic, parcel"):
        make(store, preprocessing, targets=("crop",))


def test_another_band_order_is_refused(store, preprocessing):
    turned = replace(preprocessing.inputs["s2"], bands=preprocessing.inputs["s2"].bands[::-1])
    with pytest.raises(WeightsError, match="give the bands in that order"):
        make(store, replace(preprocessing, inputs={"s2": turned}))


def test_a_crop_that_does_not_fit_names_store_and_modality(store):
    with pytest.raises(ArgumentError, match=rf"^{store.path}: crop = 49 px of s2 \(490 m\), expected at most 48"):
        SampleDataset(store.path, [0], make_preprocessing(store, ("s2",)), crop=49)
