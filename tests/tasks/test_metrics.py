"""Scores from confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from eokit.errors import DataError
from eokit.tasks.metrics import confusion, scores, summarise

# truth in rows: class 0 has 8 pixels, class 1 has 4, class 2 has 4
MATRIX = np.array([[6, 2, 0], [1, 3, 0], [0, 2, 2]])


def test_miou_equals_the_hand_computed_one():
    got = scores(MATRIX, ["a", "b", "c"], None)
    by_hand = [6 / 9, 3 / 8, 2 / 4]  # hit / (truth + predicted - hit)
    assert [row["iou"] for row in got["per_class"]] == pytest.approx(by_hand)
    assert got["miou"] == pytest.approx(sum(by_hand) / 3)
    assert got["oa"] == pytest.approx(11 / 16)


def test_precision_recall_and_f1_equal_the_hand_computed_ones():
    got = scores(MATRIX, ["a", "b", "c"], None)
    assert got["macro_precision"] == pytest.approx((6 / 7 + 3 / 7 + 2 / 2) / 3)
    assert got["macro_recall"] == pytest.approx((6 / 8 + 3 / 4 + 2 / 4) / 3)
    assert got["macro_f1"] == pytest.approx((12 / 15 + 6 / 11 + 4 / 6) / 3)


def test_void_row_and_column_are_removed_and_background_stays():
    with_void = np.array([[6, 2, 0, 9], [1, 3, 0, 9], [0, 2, 2, 9], [50, 50, 50, 50]])
    got = scores(with_void, ["background", "b", "c", "void"], 3)
    assert got["miou"] == scores(MATRIX, ["background", "b", "c"], None)["miou"]
    assert [row["name"] for row in got["per_class"]] == ["background", "b", "c"]


def test_ids_survive_a_void_class_in_the_middle():
    with_void = np.insert(np.insert(MATRIX, 1, 7, axis=0), 1, 7, axis=1)
    assert [row["id"] for row in scores(with_void, ["a", "void", "b", "c"], 1)["per_class"]] == [0, 2, 3]


def test_a_class_absent_from_the_truth_is_out_of_the_mean_but_counts_its_false_alarms():
    matrix = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])
    got = scores(matrix, ["a", "b", "c"], None)
    assert got["n_classes_scored"] == 1
    assert got["miou"] == pytest.approx(3 / 4)
    assert got["miou_all"] == pytest.approx(3 / 4 / 3)
    assert got["per_class"][1]["predicted"] == 1


def test_pixels_whose_truth_is_void_are_not_counted():
    truth = torch.tensor([[[0, 1], [255, 1]]])
    prediction = torch.tensor([[[0, 0], [1, 1]]])
    assert confusion(prediction, truth, 2, 255).tolist() == [[[1, 0], [1, 1]]]


def test_summed_patch_matrices_give_the_scores_of_torchmetrics_on_all_pixels():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (7, 9, 11), generator=generator)
    prediction = torch.where(torch.rand(truth.shape, generator=generator) < 0.6, truth, truth.roll(1, 0))
    got = scores(confusion(prediction, truth, 5, 4).sum(0), list("abcdv"), 4)
    kept, true = prediction[truth != 4], truth[truth != 4]
    column_out = kept != 4  # the void column goes too: our models never predict void, others may
    expected = multiclass_jaccard_index(kept[column_out], true[column_out], 5, ignore_index=4, average="none")[:4]
    assert [row["iou"] for row in got["per_class"]] == pytest.approx(expected.tolist())
    f1 = multiclass_f1_score(kept[column_out], true[column_out], 5, average="none")[:4]
    assert got["macro_f1"] == pytest.approx(f1.mean().item())


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(DataError, match=r"ids 0\.\.7, expected 0\.\.2"):
        confusion(torch.zeros(1, 2, dtype=torch.long), torch.tensor([[0, 7]]), 3, None)


def test_all_void_labels_are_refused():
    with pytest.raises(DataError, match="void"):
        scores(np.diag([0, 0, 5]), ["a", "b", "void"], 2)


def test_stacked_matrices_are_summarised_one_by_one():
    other = MATRIX.T.copy()
    both = summarise(np.stack([MATRIX, other]), None)
    assert both["miou"].tolist() == [summarise(MATRIX, None)["miou"], summarise(other, None)["miou"]]
