"""Progress off a terminal: sparse lines, of text unless JSON is asked for, none of them twice."""

from __future__ import annotations

import json

import pytest

from eokit import progress
from eokit.progress import Progress, progress_as_json


@pytest.fixture
def clock(monkeypatch):
    """`clock(30)` lets so many seconds pass."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    return pass_by


def test_lines_are_text_and_the_last_tells_the_end(clock, capsys):
    with Progress("train", 2000) as bar:
        bar.advance(1200, loss=0.123456)
        bar.advance(800, loss=0.1)
    assert capsys.readouterr().err == "train: 2,000 of 2,000  loss 0.1\n"


def test_lines_are_json_where_machines_read_them(clock, capsys):
    with progress_as_json(True), Progress("train", 4) as bar:
        bar.advance(4, loss=0.123456)
    assert json.loads(capsys.readouterr().err) == {"progress": "train", "done": 4, "total": 4, "loss": 0.1235}


def test_known_facts_are_told_in_words_and_others_by_name(clock, capsys):
    with Progress("train", 4) as bar:
        bar.advance(4, loss=0.5, samples_s=12.345, data_wait=0.031)
    told = "train: 4 of 4  loss 0.5  12.3 samples a second  3% of the time spent waiting for data\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(("as_json", "lines"), [(False, 4), (True, 10)])
def test_lines_are_sparse_and_none_comes_twice(clock, capsys, as_json, lines):
    with progress_as_json(as_json), Progress("work", 10) as bar:
        for _ in range(10):
            clock(7)
            bar.advance()
            bar.advance(0)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(set(told)) == lines


def test_nothing_done_and_quiet_work_say_nothing(clock, capsys):
    with Progress("work", 10, done=4):
        pass
    with Progress("work", 10, quiet=True) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", [(), ("--json",)])
def test_only_the_json_option_makes_json_lines(given, tmp_path, monkeypatch, capsys):
    import sys

    from eokit_cli.main import main

    typed = ("prepare", "synthetic", str(tmp_path / "s.zarr"), "--limit", "1", "--size", "16", "--workers", "1")
    monkeypatch.setattr(sys, "argv", ["eokit", *typed, *given])
    main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("prepare: ", '{"progress"'))]
    assert lines
    assert all(line.startswith("{") == bool(given) for line in lines)
