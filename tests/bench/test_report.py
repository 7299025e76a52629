"""What is said of a run: its table, its JSON, where ours loses; and two runs side by side."""

from __future__ import annotations

import json

import pytest
import torch

from eokit.errors import DataError
from eokit_bench import compare, registry, report
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
    ("text", "message"), [("{", "is no JSON"), ("[]", "schema None"), ('{"schema": 99}', "schema 99")]
)
def test_a_file_that_is_no_report_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        report.read_report(path)


@pytest.mark.parametrize(("after", "verdict"), [(2.0, "slower"), (0.5, "faster"), (1.05, "same")])
def test_a_change_counts_beyond_the_spread_of_the_runs(after, verdict):
    rows = compare.compare(toy_report(1.0), toy_report(after))["rows"]
    assert [row["is"] for row in rows] == [verdict, verdict]
    assert rows[0]["ratio"] == pytest.approx(after)


def test_only_cases_measured_in_both_are_compared():
    comparison = compare.compare(toy_report(), toy_report(at=[("T", 36)]))
    assert (comparison["rows"], comparison["only_in_a"], comparison["only_in_b"]) == ([], 2, 2)
    assert "2 only in A" in compare.text(comparison)


def test_another_machine_is_said():
    comparison = compare.compare(toy_report(), toy_report(threads=8))
    assert comparison["differences"] == ["threads: 1 in A, 8 in B"]
