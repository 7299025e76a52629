"""The report of an evaluation, and the picture of its confusion matrix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eokit.data.folds import Split
from eokit.evaluation.report import Report
from eokit.viz.confusion import draw_confusion

CLASSES = ("background", "meadow", "corn", "never there", "void")


def report(**changes) -> Report:
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (6, 5, 5)) + 200 * np.eye(5, dtype=int)
    matrices[:, 3] = 0  # a class of the legend that no test pixel has
    facts = {"protocol": "linear", "unit": "pixel", "data": "toy", "synthetic": True, "classes": CLASSES}
    facts |= {"folds": Split((1, 2, 3), (4,), (5,)), "train_support": np.array([10, 20, 0, 5, 0])}
    return Report.from_patches(matrices, ignore=4, seed=0, **(facts | changes))


def test_a_report_survives_json():
    plain = json.loads(json.dumps(report().to_dict()))
    assert plain["folds"] == {"train": [1, 2, 3], "validation": [4], "test": [5]}
    low, high = plain["interval_95"]["miou"]
    assert low < plain["scores"]["miou"] < high
    assert plain["synthetic"] is True
    assert plain["patches"] == 6


def test_classes_that_were_never_learned_are_shown_with_their_support():
    corn = report().to_dict()["per_class"][2]
    assert corn["train_support"] == 0
    assert corn["support"] > 0


def test_the_table_has_a_line_for_each_class_but_void_and_says_synthetic():
    table = report().table()
    assert all(name in table for name in CLASSES[:-1])
    assert not any(line.startswith("void ") for line in table.splitlines())
    assert "SYNTHETIC" in table
    assert "Means over the 3 of 4 classes" in table


def test_the_table_of_real_data_does_not_say_synthetic():
    assert "SYNTHETIC" not in report(synthetic=False).table()


def test_a_confusion_matrix_is_drawn(tmp_path: Path):
    one = report()
    path = draw_confusion(one.matrix, CLASSES, 4, tmp_path / "deep" / "c.png", title="toy", synthetic=True)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_classes_that_are_not_in_the_truth_share_one_line():
    table = report().table().splitlines()
    assert [line for line in table if "never there" in line] == ["no pixel of 1 class: never there"]
    many = tuple(f"species {number}" for number in range(40))
    matrix = np.zeros((1, 40, 40), int)
    matrix[0, 3, 3] = matrix[0, 5, 4] = 7
    table = report_of(matrix, many).table().splitlines()
    assert sum(line.startswith("species ") for line in table) == 2
    (folded,) = [line for line in table if line.startswith("no pixel of 38 classes: species 0, ")]
    assert folded.endswith("species 9 and 30 more")


def report_of(matrices, classes) -> Report:
    facts = {"protocol": "linear", "unit": "pixel", "data": "toy", "synthetic": True, "classes": classes}
    return Report.from_patches(matrices, ignore=None, seed=0, folds=Split((1,), (), (2,)), **facts)
