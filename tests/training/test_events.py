"""Events on disk, and where the time goes."""

from __future__ import annotations

import time

import pytest

from eokit.errors import EokitError
from eokit.training.events import Clock, EventLog, read_events


def test_events_come_back_by_kind(tmp_path):
    log = EventLog(tmp_path, upto=0)
    log.write("train", 1, loss=0.5)
    log.write("saved", 1, checkpoint="step-000001")
    assert [event["event"] for event in read_events(tmp_path)] == ["train", "saved"]
    assert [event["loss"] for event in read_events(tmp_path, "train")] == [0.5]


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
    EventLog(tmp_path, upto=0).write("train", 1, loss=0.5)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "tra')
    assert len(read_events(tmp_path)) == 1


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event"\n{"event": "train", "step": 1}\n')
    with pytest.raises(EokitError, match="line 1 is no JSON"):
        read_events(tmp_path)


def test_a_continued_log_forgets_what_came_after_its_checkpoint(tmp_path):
    log = EventLog(tmp_path, upto=0)
    for step in (1, 2, 3):
        log.write("train", step, loss=float(step))
    EventLog(tmp_path, upto=2).write("train", 3, loss=30.0)
    assert [event["loss"] for event in read_events(tmp_path)] == [1.0, 2.0, 30.0]


def test_other_processes_write_nothing(tmp_path):
    EventLog(tmp_path, upto=0, enabled=False).write("train", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hands(monkeypatch):
    """A clock whose time is set by hand: `hands(3.0)` lets three seconds pass."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_the_first_batch_is_not_counted_as_waiting(hands):
    clock = Clock()
    with clock.waiting():
        hands(100.0)
    hands(3.0)
    with clock.waiting():
        hands(1.0)
    assert clock.lap(samples=8) == {"samples_s": 2.0, "data_wait": 0.25}
    assert clock.share == 0.25


def test_time_spent_aside_is_part_of_no_step(hands):
    clock = Clock()
    with clock.waiting():
        hands(1.0)
    hands(2.0)
    with clock.aside():
        hands(50.0)
    assert clock.lap(samples=8)["samples_s"] == 4.0
