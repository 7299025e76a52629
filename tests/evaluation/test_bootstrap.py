"""Bootstrap intervals over patches."""

from __future__ import annotations

import numpy as np

from eokit.evaluation.bootstrap import intervals
from eokit.tasks.metrics import scores


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


def test_void_does_not_move_the_interval():
    plain = patches(12, 2, classes=3)
    void = np.pad(plain, ((0, 0), (0, 1), (0, 1)), constant_values=17)
    assert intervals(void, 3) == intervals(plain, None)
