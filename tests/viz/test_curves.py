"""Curves of a run."""

from __future__ import annotations

import json

import pytest

from eokit.errors import DataError
from eokit.viz import curves
from eokit.viz.curves import draw_curves


def write_events(run, events):
    run.mkdir()
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_curves_become_a_picture(tmp_path):
    rows = [{"event": "train", "step": step, "loss": 1 / step, "lr": 0.1, "feature_std": 0.9} for step in (1, 2, 3)]
    write_events(tmp_path / "run", rows)
    path = draw_curves(tmp_path / "run", tmp_path / "curves.png", title="toy", synthetic=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_values_that_are_no_numbers_leave_a_gap(tmp_path):
    write_events(
        tmp_path / "run", [{"event": "train", "step": 1, "loss": "nan"}, {"event": "train", "step": 2, "loss": 1.0}]
    )
    draw_curves(tmp_path / "run", tmp_path / "curves.png", title="toy")


def test_a_run_without_events_is_refused(tmp_path):
    with pytest.raises(DataError, match="no train event"):
        draw_curves(tmp_path, tmp_path / "curves.png", title="toy")


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """`panels(rows)`: title -> axes of the curves of these train events."""

    def draw(rows):
        kept = []
        monkeypatch.setattr(curves, "save_figure", lambda figure, path: kept.append(figure) or path)
        write_events(tmp_path / "run", [{"event": "train"} | row for row in rows])
        draw_curves(tmp_path / "run", tmp_path / "curves.png", title="toy")
        kept[0].canvas.draw()
        return {axes.get_title(loc="left"): axes for axes in kept[0].axes}

    return draw


def test_few_points_are_marked_and_begin_at_the_first_step(panels):
    axes = panels([{"step": step, "loss": 1.0} for step in (8, 10, 12)])["loss"]
    assert axes.get_xlim() == (8, 12)
    assert axes.lines[0].get_marker() == "o"


def test_many_points_are_a_line(panels):
    axes = panels([{"step": step, "loss": 1.0} for step in range(1, 200)])["loss"]
    assert axes.lines[0].get_marker() == "None"


def test_one_point_is_drawn_at_its_step(panels):
    assert panels([{"step": 5, "loss": 1.0}])["loss"].get_xlim() == (4, 6)


def test_steps_are_whole_numbers_and_the_same_below_every_panel(panels):
    found = panels([{"step": 8, "loss": 1.0, "lr": 0.1}, {"step": 11, "loss": 0.9}])
    assert found["learning rate"].get_xlim() == found["loss"].get_xlim()
    assert all(float(step).is_integer() for step in found["loss"].get_xticks())


def test_learning_rates_are_written_in_one_notation(panels):
    axes = panels([{"step": step, "lr": step * 1e-5} for step in range(1, 13)])["learning rate"]
    written = [label.get_text() for label in axes.get_yticklabels()]
    assert written[:2] == ["0", "2e-5"]
    assert "1e-4" in written
    assert all("e-" in one for one in written[1:])


def test_seven_panels_leave_one_cell_empty(panels):
    found = panels([dict.fromkeys(list(curves.TITLES)[:7], 1.0) | {"step": step} for step in (1, 2)])
    assert len(found) == 7
    assert found["loss"].get_subplotspec().get_gridspec().get_geometry() == (2, 4)
