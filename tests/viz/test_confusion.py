"""The picture of a confusion matrix: what is marked, and what is told apart from 0 %."""

from __future__ import annotations

import numpy as np
import pytest

from eokit.viz import confusion

CLASSES = ("background", "meadow", "corn", "never there", "void")
MATRIX = np.array([[9, 1, 0, 0, 3], [0, 4, 4, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 2, 3, 0, 0]])


@pytest.fixture
def axes(monkeypatch, tmp_path):
    """The axes of the matrix that would be saved."""
    kept = []
    monkeypatch.setattr(confusion, "save_figure", lambda figure, path: kept.append(figure) or path)
    confusion.draw_confusion(MATRIX, CLASSES, 4, tmp_path / "c.png", title="toy")
    return kept[0].axes[0]


def rows(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_a_class_without_truth_is_hatched_and_said_to_have_none(axes):
    assert rows(axes) == ["background  (10)", "meadow  (8)", "corn  (no truth)"]
    (hatched,) = [patch for patch in axes.patches if patch.get_hatch()]
    assert (hatched.get_xy(), hatched.get_width(), hatched.get_height()) == ((-0.5, 1.5), 3, 1)


def test_the_diagonal_is_framed(axes):
    framed = [patch.get_xy() for patch in axes.patches if not patch.get_fill()]
    assert framed == [(-0.5, -0.5), (0.5, 0.5), (1.5, 1.5)]


def test_shares_are_of_the_truth_and_void_counts_for_nothing(axes):
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "90", (1, 0): "10", (1, 1): "50", (2, 1): "50"}
