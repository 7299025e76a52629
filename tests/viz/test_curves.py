"""Curves of a run."""

from __future__ import annotations

import json

import pytest

from eokit.errors import DataError
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
