"""A case is checked before it is timed, and time and memory are those of the same runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise, permutations

import pytest
import torch

from eokit_bench.measure import (
    FEWEST_TURNS,
    Plan,
    Truth,
    error_limit,
    gate,
    in_turns,
    measure,
    order_of_turn,
    peak_extra_bytes,
)
from tests.bench.toys import toy_case

QUICK = Plan(turns=3)


def test_a_right_contender_gets_its_figures():
    told = measure(toy_case(), QUICK)["contenders"]["other"]
    assert told["error"] == {"out": pytest.approx(0, abs=1e-6)}
    assert told["ms_quartiles"][0] <= told["ms"] <= told["ms_quartiles"][1]
    assert told["gflop_per_s"] == pytest.approx(1001 / told["ms"] / 1e6, rel=1e-3)
    assert told["gb_per_s"] == pytest.approx(8 * 1001 / told["ms"] / 1e6, rel=1e-3)
    assert told["turns"] == 3


@pytest.mark.parametrize("wrong", [lambda x: 2.001 * x, lambda x: x * float("nan"), lambda x: 2 * x[:-1]])
def test_a_wrong_contender_gets_no_figure(wrong):
    row = measure(toy_case(other=wrong), QUICK)
    assert row["contenders"]["other"].keys() == {"why_not", "wrong"}
    assert "not measured" in row["contenders"]["other"]["why_not"]
    assert "ms" in row["contenders"]["ours"]


def test_where_ours_is_wrong_nothing_is_set_against_it():
    row = measure(toy_case(ours=lambda x: x), QUICK)
    assert row["contenders"]["ours"]["wrong"]
    assert "times_ours" not in row["contenders"]["other"]


def test_a_contender_that_cannot_run_says_why():
    def refuse(x):
        raise RuntimeError("No available kernel.\nmore lines")

    told = measure(toy_case(other=refuse), QUICK)["contenders"]["other"]
    assert told == {"why_not": "does not run: No available kernel.", "wrong": False}


def test_ours_has_to_run():
    def refuse(x):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        measure(toy_case(ours=refuse), QUICK)


def test_the_limit_is_twice_the_error_of_torch_and_a_rounding():
    exact, own = torch.ones(3, dtype=torch.float64), torch.full((3,), 1 + 1e-5)
    assert error_limit(own, exact, Truth({}, {})) == pytest.approx(2e-5, rel=0.1)
    assert error_limit(own, exact, Truth({}, {}, sums=1e3)) == pytest.approx(1.4e-4, rel=0.1)
    assert error_limit(own, exact, Truth({}, {}, computed=torch.bfloat16)) == pytest.approx(0.031, rel=0.1)


def test_a_wrong_yardstick_does_not_make_wrong_results_right():
    truth = Truth({"out": torch.ones(3, dtype=torch.float64)}, {"out": torch.zeros(3)})
    assert gate(lambda: {"out": torch.zeros(3)}, truth, required=False)["wrong"]


def test_whole_numbers_have_to_be_the_same():
    truth = Truth({"out": torch.arange(3)}, {"out": torch.arange(3)})
    assert "why_not" not in gate(lambda: {"out": torch.arange(3)}, truth, required=True)
    assert gate(lambda: {"out": torch.arange(3) + 1}, truth, required=True)["wrong"]


@pytest.mark.parametrize("count", range(2, 8))
def test_everyone_runs_as_often_at_every_place_and_behind_every_other(count):
    turns = [order_of_turn(turn, count) for turn in range(2 * count)]
    places = Counter((place, who) for order in turns for place, who in enumerate(order))
    behind = Counter(pair for order in turns for pair in pairwise(order))
    assert places == {(place, who): 2 for place in range(count) for who in range(count)}
    assert behind == dict.fromkeys(permutations(range(count), 2), 2)


def test_contenders_run_in_the_order_of_the_turn():
    order = []
    runs = {name: lambda name=name: order.append(name) or {} for name in "abc"}
    in_turns({name: slow(run) for name, run in runs.items()}, Plan(turns=6))
    assert "".join(order[3:]) == "abcbcacabcbaacbbac"  # the first three warm up


def test_a_slow_case_is_measured_in_few_turns():
    times = in_turns({"a": slow(lambda: {})}, Plan(turns=50, seconds=0))
    assert len(times["a"]) == FEWEST_TURNS


def test_extra_memory_is_the_peak_of_one_run():
    def run():
        x = torch.ones(2**18)  # 1 MiB
        y = x + 1
        del x
        return {"out": y + 1}

    held = peak_extra_bytes(run, torch.device("cpu"))
    assert 2 * 2**20 <= held < 2.1 * 2**20


def test_a_case_that_is_left_out_says_why():
    case = toy_case()
    row = measure(replace(case, left_out="too much"), QUICK)
    assert (row["left_out"], row["contenders"]) == ("too much", {})


def slow(run):
    """Slow enough not to be repeated within a turn."""
    import time

    def slowed():
        time.sleep(0.006)
        return run()

    return slowed
