"""Several stores as one data set: what a batch shares, and what comes when."""

from __future__ import annotations

import numpy as np
import pytest

from eokit.data.collate import collate
from eokit.data.dataset import SampleDataset
from eokit.data.mixture import Mixture, Part, StepDraw
from eokit.data.statistics import common_preprocessing, make_preprocessing
from eokit.errors import ArgumentError
from eokit.training.order import MixedOrder, RankBatches

from .stores import make_source, make_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [
        make_store(folder / "a.zarr", make_source((5, 6, 4))),
        make_store(folder / "b.zarr", make_source((3, 4, 5, 6, 7), spot=True)),
    ]


@pytest.fixture
def mixture(stores):
    names = [("s2", "s1-asc"), ("s2", "spot")]
    made = common_preprocessing(stores, names, [(1, 2), (1, 2)])
    parts = [
        Part(SampleDataset(store.path, range(len(store.folds)), one), weight, scales)
        for store, one, weight, scales in zip(stores, made, (1.0, 3.0), ((40, 80), (40,)), strict=True)
    ]
    return Mixture(parts)


def order(mixture, batch_size=4, seed=0):
    return MixedOrder(mixture.lengths, tuple(part.weight for part in mixture.parts), batch_size, seed)


def test_a_batch_comes_from_one_store_and_has_one_patch_size(mixture):
    for step in range(12):
        batch = collate([mixture[draw] for draw in order(mixture).batch(step)])
        assert set(batch.series) in ({"s2", "s1-asc"}, {"s2", "spot"})
        assert len(batch.targets["patch_metres"].unique()) == 1
        assert batch.targets["step"].tolist() == [step] * 4
        assert len(batch.targets["seed"].unique()) == 4


def test_stores_come_by_their_weights(mixture):
    numbers = [order(mixture).batch(step)[0].index >= 3 for step in range(2000)]
    assert np.mean(numbers) == pytest.approx(0.75, abs=0.03)


def test_every_sample_of_a_store_comes_as_often_as_any_other(mixture):
    seen = [draw.index for step in range(400) for draw in order(mixture).batch(step)]
    counts = np.bincount(seen, minlength=8)
    assert np.ptp(counts[:3]) <= 1
    assert np.ptp(counts[3:]) <= 1


def test_a_step_is_the_same_whoever_asks_and_whenever(mixture):
    late = order(mixture).batch(37)
    assert order(mixture).batch(37) == late
    halves = [next(iter(RankBatches(order(mixture), 37, 38, rank, 2))) for rank in (0, 1)]
    assert halves[0] + halves[1] == late


def test_no_draw_of_a_sample_is_the_same_as_another(mixture):
    drawn = [draw[:2] for step in range(100) for draw in order(mixture, batch_size=8).batch(step)]
    assert len(set(drawn)) == len(drawn)


def test_a_restarted_sample_is_the_same(mixture):
    one, other = (mixture[StepDraw(5, 4, 2)] for _ in range(2))
    assert one.targets == other.targets


def test_stores_share_the_statistics_of_what_both_have(stores):
    first, second = common_preprocessing(stores, [("s2",), ("s2",)], [(1, 2), (1, 2)])
    assert first.inputs["s2"].mean == second.inputs["s2"].mean
    own = [make_preprocessing(store, ("s2",)).inputs["s2"].mean for store in stores]
    assert all(min(pair) <= both <= max(pair) for *pair, both in zip(*own, first.inputs["s2"].mean, strict=True))


def test_a_part_needs_a_weight_and_a_patch_size(mixture):
    with pytest.raises(ArgumentError, match="weight 0, scales"):
        Part(mixture.parts[0].dataset, 0.0, (40,))
