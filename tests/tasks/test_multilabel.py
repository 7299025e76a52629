"""Scores of several classes a sample, held against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from eokit.errors import ArgumentError, DataError
from eokit.tasks.multilabel import average_precision, multilabel_scores, summarise_multilabel

N = st.integers(2, 30)


@st.composite
def cases(draw, classes: int = 4):
    """Scores with ties and truth in which every class occurs."""
    n = draw(N)
    scores = draw(arrays(np.float64, (n, classes), elements=st.integers(0, 8).map(lambda tenth: tenth / 8)))
    truth = draw(arrays(np.int64, (n, classes), elements=st.integers(0, 1)))
    truth[draw(st.integers(0, n - 1))] = 1
    return scores, truth


@settings(deadline=None)
@given(cases(classes=1), st.data())
def test_average_precision_is_that_of_scikit_learn_however_often_a_sample_counts(case, data):
    scores, truth = (one[:, 0] for one in case)
    times = data.draw(arrays(np.int64, len(truth), elements=st.integers(0, 3)).filter(lambda one: (one * truth).any()))
    expected = average_precision_score(truth, scores, sample_weight=times)
    assert average_precision(scores, truth, times[None])[0] == pytest.approx(expected)


@settings(deadline=None)
@given(cases())
def test_summaries_are_those_of_scikit_learn(case):
    scores, truth = case
    got = {name: value[0] for name, value in summarise_multilabel(scores, truth, np.ones((1, len(truth)))).items()}
    told = scores > 0.5
    assert got["macro_map"] == pytest.approx(average_precision_score(truth, scores, average="macro"))
    for kind in ("macro", "micro", "weighted"):
        assert got[f"{kind}_f1"] == pytest.approx(f1_score(truth, told, average=kind, zero_division=0))


def test_summaries_are_those_of_torchmetrics():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (200, 5))
    scores = np.clip(0.5 * truth + rng.random((200, 5)) * 0.6, 0, 1)
    got = multilabel_scores(scores, truth, list("abcde"))
    said, true = torch.from_numpy(scores), torch.from_numpy(truth)
    assert got["macro_map"] == pytest.approx(multilabel_average_precision(said, true, 5, "macro").item(), abs=1e-6)
    for kind in ("macro", "micro"):
        assert got[f"{kind}_f1"] == pytest.approx(multilabel_f1_score(said, true, 5, average=kind).item(), abs=1e-6)


@settings(deadline=None)
@given(cases(), st.data())
def test_counting_a_sample_twice_is_having_it_twice(case, data):
    scores, truth = case
    times = data.draw(arrays(np.int64, len(truth), elements=st.integers(1, 3)))
    once = summarise_multilabel(scores.repeat(times, 0), truth.repeat(times, 0), np.ones((1, times.sum())))
    for name, value in summarise_multilabel(scores, truth, times[None]).items():
        assert value == pytest.approx(once[name])


def test_a_class_that_no_sample_has_is_out_of_the_means():
    scores, truth = np.array([[0.9, 0.9], [0.1, 0.9]]), np.array([[1, 0], [0, 0]])
    got = multilabel_scores(scores, truth, ("there", "absent"))
    assert (got["macro_map"], got["macro_f1"], got["n_classes_scored"]) == (1, 1, 1)
    assert (got["per_class"][1]["ap"], got["per_class"][1]["predicted"]) == (None, 2)


def test_truth_that_is_no_0_or_1_is_refused():
    with pytest.raises(DataError, match=r"hold 0\.\.2, expected 0 or 1"):
        multilabel_scores(np.zeros((2, 2)), np.array([[0, 1], [2, 0]]), ("a", "b"))


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ArgumentError, match=r"\(2, 3\), truth \(2, 2\)"):
        summarise_multilabel(np.zeros((2, 3)), np.ones((2, 2)), np.ones((1, 2)))


def test_samples_without_any_class_cannot_be_scored():
    with pytest.raises(DataError, match="nothing to score"):
        multilabel_scores(np.zeros((2, 2)), np.zeros((2, 2), int), ("a", "b"))
