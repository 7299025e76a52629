"""The picture of the scores of several classes a sample."""

from __future__ import annotations

import pytest

from eokit.viz import classes

ROWS = [
    {"name": "oak", "f1": 0.25, "ap": 0.5, "support": 3},
    {"name": "ash", "f1": 0.75, "ap": 0.8, "support": 40},
    {"name": "never there", "f1": 0.0, "ap": None, "support": 0},
]


@pytest.fixture
def axes(monkeypatch, tmp_path):
    """The axes of the picture that would be saved."""
    kept = []
    monkeypatch.setattr(classes, "save_figure", lambda figure, path: kept.append(figure) or path)
    classes.draw_classes(ROWS, tmp_path / "c.png", title="toy")
    return kept[0].axes[0]


def test_classes_stand_by_how_frequent_they_are(axes):
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["ash  (40)", "oak  (3)", "never there  (no truth)"]


def test_bars_are_f1_and_marks_average_precision(axes):
    assert [bar.get_width() for bar in axes.patches] == [75, 25]
    assert [(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata()] == [(80, 0), (50, 1)]


def test_a_class_without_truth_has_no_bar(axes):
    assert len(axes.patches) == len(axes.lines) == 2


def test_made_up_data_are_stamped(tmp_path):
    path = classes.draw_classes(ROWS, tmp_path / "deep" / "c.png", title="toy", synthetic=True)
    assert path.read_bytes()[:4] == b"\x89PNG"
