"""The picture of a map: which panels it has and what its words say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eokit.viz import map as module
from eokit.viz.map import Legend, LegendEntry, View, draw_map

CLASSES = np.array([[0, 0], [1, 255]], np.uint8)
TRUTH = np.array([[2, 0], [1, 255]], np.uint8)
GREY = module.UNSEEN_COLOUR
ENTRIES = (
    LegendEntry(0, "meadow", (0, 200, 0), 0.75),
    LegendEntry(1, "corn", (200, 100, 0), 0.25),
    LegendEntry(2, "void", (255, 255, 255), None),
)
VIEW = View("patch p0", CLASSES, np.full((2, 2), 90, np.uint8), (10.0, 10.0))


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """`figure(views)`: the figure that would be saved."""

    def make(*views):
        kept = []
        monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure) or path)
        draw_map(tmp_path / "map.png", views, Legend("share of the whole map", ENTRIES), "toy\nhere", False)
        return kept[0]

    return make


def panels(figure):
    """Title -> axes, without the bar of confidence."""
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_labels_and_map_have_the_same_colours(figure):
    found = panels(figure(replace(VIEW, truth=TRUTH)))
    assert list(found) == ["patch p0\nlabels", "map", "confidence"]
    labels, mapped = (found[title].images[0].get_array() for title in ("patch p0\nlabels", "map"))
    np.testing.assert_array_equal(labels[0], [(255, 255, 255), (0, 200, 0)])
    np.testing.assert_array_equal(mapped[0], [(0, 200, 0), (0, 200, 0)])
    np.testing.assert_array_equal(labels[1], mapped[1])
    np.testing.assert_array_equal(mapped[1], [(200, 100, 0), GREY])


def test_a_map_without_labels_or_colour_has_two_panels(figure):
    assert list(panels(figure(VIEW))) == ["patch p0\nmap", "confidence"]


def test_true_colour_comes_first_and_names_its_date(figure):
    rgb = np.zeros((2, 2, 3), np.uint8)
    found = panels(figure(replace(VIEW, rgb=rgb, rgb_title="true colour 2019-06-13", truth=TRUTH)))
    assert list(found) == ["patch p0\ntrue colour 2019-06-13", "labels", "map", "confidence"]


def test_the_legend_says_what_its_shares_are_of(figure):
    (legend,) = figure(replace(VIEW, truth=TRUTH)).legends
    assert legend.get_title().get_text() == "share of the whole map"
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["meadow  75.0%", "corn  25.0%", "void  (labels only)", "not seen"]
