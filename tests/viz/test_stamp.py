"""Pictures of made-up data say so, and nothing lies under the words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eokit.data.crops import PASTIS_CLASSES
from eokit.data.folds import Split
from eokit.evaluation.report import Report
from eokit.viz import confusion, curves, quicklook, scores
from eokit.viz.style import SYNTHETIC_STAMP
from tests.data.stores import make_source, make_store

RNG = np.random.default_rng(0)


def report(classes, synthetic):
    matrices = RNG.integers(1, 900, (5, len(classes), len(classes)))
    facts = {"protocol": "linear", "unit": "pixel", "data": "toy", "folds": Split((1,), (2,), (3,)), "classes": classes}
    return Report.from_patches(matrices, ignore=None, seed=0, synthetic=synthetic, **facts)


def matrix_of(classes):
    def draw(path, synthetic):
        one = report(classes, synthetic)
        return confusion.draw_confusion(one.matrix, one.classes, None, path / "c.png", title="toy", synthetic=synthetic)

    return draw


def bars(path, synthetic):
    names = ("linear probe, random weights", "fine-tuned")
    reports = {name: report(PASTIS_CLASSES, synthetic) for name in names}
    return scores.draw_scores(reports, path / "s.png", title="toy")


def run_of(names):
    def draw(path, synthetic):
        rows = [{"event": "train", "step": step} | dict.fromkeys(names, 1e-5 * step) for step in range(1, 40)]
        (path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return curves.draw_curves(path, path / "r.png", title="toy", synthetic=synthetic)

    return draw


def look(path, synthetic):
    store = make_store(path / "toy.zarr", make_source(bands=10))
    store.attributes = store.attributes | {"synthetic": synthetic, "title": "toy"}
    return quicklook.draw_quicklook(store, path / "q.png")


PICTURES = {
    "matrix": matrix_of(PASTIS_CLASSES),
    "small matrix": matrix_of(("background", "corn")),
    "bars": bars,
    "one curve": run_of(("loss",)),
    "all curves": run_of(curves.TITLES),
    "quicklook": look,
}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(draw, synthetic)`: the figure that would be saved."""

    def make(draw, synthetic):
        kept = []
        for module in (confusion, curves, scores, quicklook):
            monkeypatch.setattr(module, "save_figure", lambda figure, path: kept.append(figure) or path)
        draw(tmp_path, synthetic)
        return kept[0]

    return make


def stamps(figure):
    return [text for text in figure.texts if text.get_text() == SYNTHETIC_STAMP]


@pytest.mark.parametrize("picture", PICTURES)
def test_the_stamp_overlaps_nothing(drawn, picture):
    figure = drawn(PICTURES[picture], True)
    figure.canvas.draw()
    (stamp,) = stamps(figure)
    box = stamp.get_window_extent()
    assert figure.bbox.containsx(box.x0)
    assert figure.bbox.containsx(box.x1)
    others = [text.get_window_extent() for text in figure.texts if text is not stamp]
    others += [axes.get_tightbbox() for axes in figure.axes]
    assert not [other for other in others if other is not None and box.overlaps(other)]


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_of_real_data_have_no_stamp(drawn, picture):
    assert not stamps(drawn(PICTURES[picture], False))
