"""Bootstrap intervals over patches."""

from __future__ import annotations

import numpy as np

from eokit.evaluation import bootstrap
from eokit.evaluation.bootstrap import intervals, intervals_multilabel, intervals_of_units
from eokit.tasks.metrics import scores
from eokit.tasks.multilabel import multilabel_scores


def patches(n: int, seed: int, accuracy: float = 0.7, classes: int = 4) -> np.ndarray:
    """(n, K, K) matrices of 400 pixels whose accuracy varies from patch to patch around `accuracy`."""
    rng = np.random.default_rng(seed)
    out = np.zeros((n, classes, classes), np.int64)
    for matrix in out:
        right = rng.beta(accuracy * 10, (1 - accuracy) * 10)
        truth = rng.integers(0, classes, 400)
        predicted = np.where(rng.random(400) < right, truth, rng.integers(0, classes, 400))
        np.add.at(matrix, (truth, predicted), 1)
    return out


def test_the_same_seed_gives_the_same_interval():
    matrices = patches(20, 0)
    assert intervals(matrices, None, seed=3) == intervals(matrices, None, seed=3)
    assert intervals(matrices, None, seed=3) != intervals(matrices, None, seed=4)


def test_the_interval_holds_the_score_itself():
    matrices = patches(20, 1)
    got = intervals(matrices, None)
    for name, value in scores(matrices.sum(0), list("abcd"), None).items():
        if name in got:
            low, high = got[name]
            assert low <= value <= high


def test_intervals_cover_the_true_score_about_as_often_as_they_say():
    truth = scores(patches(20_000, 99).sum(0), list("abcd"), None)["miou"]
    held = 0
    for seed in range(100):
        low, high = intervals(patches(40, seed), None, resamples=300)["miou"]
        held += low <= truth <= high
    # A binomial with n = 100 and p = 0.95 lies below 86 with probability < 1e-3; the percentile interval of 40 patches
    # is known to be a little narrow, hence the room.
    assert 84 <= held <= 100


def test_more_patches_narrow_the_interval():
    few, many = (np.diff(intervals(patches(n, 5), None)["oa"])[0] for n in (10, 160))
    assert many < few / 2


def test_a_single_patch_has_no_interval():
    assert intervals(patches(1, 0), None)["miou"] is None


def test_units_of_a_matrix_have_the_intervals_of_one_matrix_each():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    single = np.zeros((300, 4, 4), np.int64)
    single[np.arange(300), truth, np.where(rng.random(300) < 0.7, truth, rng.integers(0, 4, 300))] = 1
    one, other = intervals(single, None, resamples=4000), intervals_of_units(single.sum(0), None, resamples=4000)
    for name, held in one.items():
        np.testing.assert_allclose(held, other[name], atol=0.01)  # a fifth of the width; two draws of 4000 resamples


def several(n: int, seed: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth (n, K) of classes that a score tells from the others now and then."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (n, classes))
    return np.clip(0.3 * truth + rng.random((n, classes)) * 0.7, 0, 1), truth


def test_intervals_of_several_classes_hold_the_score_and_repeat_with_the_seed():
    said, truth = several(150, 0)
    got = intervals_multilabel(said, truth, seed=3)
    assert got == intervals_multilabel(said, truth, seed=3)
    assert got != intervals_multilabel(said, truth, seed=4)
    for name, value in multilabel_scores(said, truth, list("abcde")).items():
        if name in got:
            low, high = got[name]
            assert low <= value <= high


def test_intervals_of_several_classes_do_not_depend_on_how_many_resamples_go_at_once(monkeypatch):
    said, truth = several(60, 1)
    whole = intervals_multilabel(said, truth)
    monkeypatch.setattr(bootstrap, "NUMBERS", 60 * 7)
    assert intervals_multilabel(said, truth) == whole


def test_intervals_of_several_classes_cover_the_true_score():
    truth = multilabel_scores(*several(40_000, 99), list("abcde"))["macro_map"]
    held = 0
    for seed in range(100):
        low, high = intervals_multilabel(*several(120, seed), resamples=200)["macro_map"]
        held += low <= truth <= high
    # average precision of few samples is a little too high, so that intervals miss on one side more than on the other
    assert 84 <= held <= 100


def test_a_single_sample_has_no_interval():
    assert intervals_multilabel(np.ones((1, 2)), np.ones((1, 2), int))["macro_map"] is None


def test_void_does_not_move_the_interval():
    plain = patches(12, 2, classes=3)
    void = np.pad(plain, ((0, 0), (0, 1), (0, 1)), constant_values=17)
    assert intervals(void, 3) == intervals(plain, None)
