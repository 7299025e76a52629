"""What is said of a run: its table, its JSON, where ours loses; and two runs side by side."""

from __future__ import annotations

import json

import pytest
import torch

from eokit.errors import DataError, UsageError
from eokit_bench import compare, registry, report
from eokit_bench.machine import machine
from eokit_bench.measure import Plan
from tests.bench.toys import toy_case, toy_report


@pytest.fixture
def toy(monkeypatch):
    """`toy(*cases)`: the report of a run of these."""

    def run(*cases):
        from types import SimpleNamespace

        monkeypatch.setattr(registry, "load", lambda name: SimpleNamespace(cases=lambda settings: list(cases)))
        return report.run("toy", registry.SequenceSettings(), Plan(turns=3, device=torch.device("cpu")))

    return run


def test_a_report_is_json_with_its_schema_machine_and_roofline(toy):
    found = json.loads(json.dumps(toy(toy_case())))
    assert found["schema"] == report.SCHEMA
    assert found["machine"].keys() >= {"processor", "threads", "torch", "load", "commit", "kernels"}
    assert found["roofline"]["copy_gb_per_s"] > 0
    assert found["roofline"]["gemm_gflop_per_s"]["float32"] > 0


def test_shares_are_of_what_the_machine_does_at_best(toy):
    found = toy(toy_case())
    told = found["rows"][0]["contenders"]["ours"]
    assert told["percent_of_copy"] == pytest.approx(
        100 * told["gb_per_s"] / found["roofline"]["copy_gb_per_s"], abs=0.06
    )


def test_times_far_apart_are_called_noisy():
    assert "Noisy" not in report.text(toy_report(ms=1.0, spread=0.1))
    told = report.text(toy_report(ms=1.0, spread=0.3))
    assert "Noisy" in told
    assert "half of the times of ours lie within 0.7 to 1.3 ms" in told


def test_in_turn_is_bytes_then_products_at_the_best_rate():
    told = {"gb_per_s": 5.0, "ms": 4.0, "flops": 2e9, "extra_bytes": 3e6}
    row = {"ours": "ours", "contenders": {"ours": told, "other": {"extra_bytes": 9e6}, "wrong": {"why_not": "wrong"}}}
    roof = {
        "copy_gb_per_s": 10.0,
        "gemm_gflop_per_s": {"bfloat16": 50.0, "float32": 100.0},
        "new_memory_gb_per_s": 2.0,
    }
    parts = report.in_turn(row, roof)["in_turn_ms"]
    assert parts == {"bytes": 2.0, "products": 20.0, "new_memory": 1.5}
    assert "bytes 2 + products 20 = 22 ms; mapping all results as new memory: 1.5" in report.in_turn_line(parts)


def test_in_turn_is_told_of_every_case_where_the_machine_is_known(toy):
    assert "in turn: bytes" in report.text(toy(toy_case()))
    assert "in turn: bytes" not in report.text(toy_report())


def test_no_figure_is_printed_for_a_wrong_result(toy):
    found = toy(toy_case(other=lambda x: x))
    (line,) = [line for line in report.text(found).splitlines() if "other" in line]
    assert "wrong: out is off by 1" in line
    assert found["wrong"]


def test_it_says_in_words_where_ours_loses():
    (sentence,) = report.losses(toy_report())
    assert sentence == "T 12, forward: other takes 0.50 of the time of ours (quartiles 0.50 to 0.50)"


def test_it_says_so_where_ours_loses_nowhere():
    assert report.text(toy_report()).splitlines()[-2:] == ["Where ours loses:", "  nowhere in this run"]


def test_a_saved_report_is_read_again(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(toy_report()))
    assert report.read_report(path) == toy_report()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "schema None"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1}', "no whole report"),
        ('{"schema": 1, "benchmark": "toy", "machine": {}, "rows": [1]}', "no whole report"),
        ('{"schema": 1, "benchmark": "toy", "machine": {}, "rows": [{"at": {}, "contenders": {"x": 1}}]}', "no whole"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        report.read_report(path)


@pytest.mark.parametrize(
    ("other", "spread", "verdict"),
    [(0.4, 0.0, "slower"), (0.6, 0.0, "faster"), (0.46, 0.0, "same"), (0.54, 0.0, "same"), (0.4, 0.3, "same")],
)
def test_ours_is_judged_by_its_ratio_to_others_beyond_a_tenth_and_the_spread(other, spread, verdict):
    (row,) = compare.compare(toy_report(other_spread=spread), toy_report(other=other, other_spread=spread))["rows"]
    assert row["is"] == verdict
    assert row["ratio"] == pytest.approx(2 * other)


def test_a_machine_that_is_slower_altogether_changes_no_verdict():
    (row,) = compare.compare(toy_report(1.0), toy_report(3.0))["rows"]
    assert row["is"] == "same"
    assert (row["a_ms"], row["b_ms"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("ours", "other", "words"),
    [
        (0.5, 0.2, "slower, yet took less time"),
        (1.0, 0.2, "slower"),
        (2.0, 0.2, "slower"),
        (2.0, 0.9, "faster, yet took more time"),
        (0.5, 0.9, "faster"),
        (0.5, 0.5, ""),
    ],
)
def test_a_verdict_that_our_own_time_speaks_against_says_so(ours, other, words):
    comparison = compare.compare(toy_report(1.0), toy_report(ours, other=other))
    assert compare.verdict(comparison["rows"][0]) == words
    assert ("against our own milliseconds" in compare.text(comparison)) == ("yet" in words)


def test_the_comparison_shows_what_the_other_one_took_in_both():
    (row,) = compare.compare(toy_report(1.0), toy_report(2.0, other=0.25))["rows"]
    assert (row["a_other_ms"], row["b_other_ms"]) == (0.5, 0.5)


def test_the_summary_counts_the_verdicts():
    told = compare.text(compare.compare(toy_report(), toy_report(other=0.25)))
    assert "\nbeside the others: 1 slower, 0 faster, 0 within the spread; " in told


def test_only_cases_measured_in_both_are_compared():
    both = toy_report()
    both["rows"] += toy_report(at=[("T", 36)])["rows"]
    comparison = compare.compare(toy_report(), both)
    assert (len(comparison["rows"]), comparison["only_in_a"], comparison["only_in_b"]) == (1, 0, 2)
    assert "0 only in A, 2 only in B" in compare.text(comparison)


def test_reports_without_a_case_in_common_are_refused():
    with pytest.raises(UsageError, match="no case of A is one of B: A has T 12, forward; B has T 36"):
        compare.compare(toy_report(), toy_report(at=[("T", 36)]))


def test_without_a_figure_beside_ours_there_is_nothing_to_compare():
    alone = toy_report()
    del alone["rows"][0]["contenders"]["other"]
    assert compare.text(compare.compare(alone, alone)).startswith("nothing to compare: ")


@pytest.mark.parametrize("name", ["ours", "other"])
def test_a_contender_that_became_wrong_is_told(name):
    broken = toy_report()
    broken["rows"][0]["contenders"][name] = {"why_not": "wrong: out is off by 1", "wrong": True}
    comparison = compare.compare(toy_report(), broken)
    assert compare.lost_lines(comparison) == [f"T 12, forward: {name} lost its figure, wrong: out is off by 1"]
    assert "lost its figure" in compare.text(comparison)
    assert compare.compare(broken, broken)["lost"] == []


def test_reports_of_two_benchmarks_are_refused():
    with pytest.raises(UsageError, match="A measured toy and B play"):
        compare.compare(toy_report(), toy_report() | {"benchmark": "play"})


def test_another_machine_is_said():
    comparison = compare.compare(toy_report(), toy_report(threads=8))
    assert comparison["differences"] == ["threads: 1 in A, 8 in B"]


def test_memory_that_is_kept_makes_another_machine(monkeypatch):
    monkeypatch.setattr("eokit.memory._outcome", "")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    left = toy_report(freed_memory=machine()["freed_memory"])
    differences = compare.compare(toy_report(), left)["differences"]
    said = "left to the C library and GLIBC_TUNABLES=glibc.malloc.trim_threshold=1"
    assert differences == [f"freed_memory: kept in A, {said} in B"]


def test_a_busy_machine_is_said():
    idle, loaded = toy_report(cores=2), toy_report(cores=2, load=7.5)
    assert "busy: load 7.5 on 2 cores in B; measure again" in compare.text(compare.compare(idle, loaded))
    assert "busy" not in compare.text(compare.compare(idle, idle))
