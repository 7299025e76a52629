"""The cases of `eokit bench` under pytest-benchmark: `pytest benchmarks/`, for its history and its comparisons."""

from __future__ import annotations

from typing import Any

import pytest

from eokit_bench.measure import Case, gate
from eokit_bench.registry import BENCHMARKS, load
from eokit_bench.report import case_name

pytest.importorskip("pytest_benchmark", reason="pip install 'eokit[test]'")

ROUNDS = 5


def cases() -> list[object]:
    """Every contender of every case with default settings, but for cases that are left out."""
    return [
        pytest.param(
            case, contender, id=f"{name} {case_name(case.at)} {contender}".replace(", ", "-").replace(" ", "_")
        )
        for name, about in BENCHMARKS.items()
        for case in load(name).cases(about.settings())
        if not case.left_out
        for contender in case.contenders
    ]


@pytest.mark.parametrize(("case", "contender"), cases())
def test_speed(benchmark: Any, case: Case, contender: str) -> None:
    prepared = case.setup()
    run = prepared.runs[contender]
    told = gate(run, prepared.truth(contender), required=contender == case.ours)
    if "why_not" in told:
        pytest.fail(told["why_not"]) if told["wrong"] else pytest.skip(told["why_not"])
    benchmark.group = case_name(case.at)
    benchmark.extra_info["contender"] = contender
    benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)
