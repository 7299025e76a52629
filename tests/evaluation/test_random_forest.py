"""The random-forest baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from eokit.evaluation.random_forest import Forest
from eokit.evaluation.raw_series import common_grid, gather_pixels
from eokit.tasks.features import Labels, Tokens
from tests.evaluation.toy_data import VOID, ToyPlaces

LABELS = Labels("semantic", 4, VOID)


def test_a_forest_learns_what_the_pixels_say_and_never_predicts_void():
    train, test = ToyPlaces(6, seed=0), ToyPlaces(3, seed=1)
    grid = common_grid(train.seasons())
    forest = Forest.fit(gather_pixels(train, LABELS, grid, "series", most=600, quiet=True), 4)
    truth = torch.stack([sample.targets["semantic"] for sample in test.samples])
    prediction = torch.stack([forest.predict(sample, grid, (16, 16)) for sample in test.samples])
    assert (prediction != VOID).all()
    assert float((prediction == truth)[truth != VOID].float().mean()) > 0.95


def features(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 5))).float()


def test_classes_that_no_sample_has_get_no_share():
    train, test = features(80, 0), features(20, 1)
    forest = Forest.fit(Tokens(train, 1 + 2 * (train[:, 0] > 0).long()), 5)
    shares = forest.shares(test)
    assert (shares[:, [0, 2, 4]] == 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(20))


def test_several_classes_are_told_one_by_one():
    train, test = features(300, 0), features(100, 1)
    truth = torch.stack([train[:, 0] > 0, train[:, 1] > 0, train[:, 2] > 9, train[:, 3] < 9], 1).long()
    shares = Forest.fit(Tokens(train, truth), 4).shares(test)
    assert ((shares[:, :2] > 0.5) == (test[:, :2] > 0)).float().mean() > 0.85
    assert (shares[:, 2] == 0).all()
    assert (shares[:, 3] == 1).all()


@pytest.mark.parametrize("several", [False, True])
def test_a_seed_gives_the_same_forest_as_scikit_learn(several):
    train, test = features(60, 0), features(9, 1)
    truth = (train[:, :2] > 0).long() if several else (train[:, 0] > 0).long()
    again = RandomForestClassifier(100, random_state=3).fit(train.numpy(), truth.numpy()).predict_proba(test.numpy())
    expected = np.stack([one[:, 1] for one in again], 1) if several else again
    np.testing.assert_allclose(Forest.fit(Tokens(train, truth), 2, seed=3).shares(test), expected, rtol=1e-6)
