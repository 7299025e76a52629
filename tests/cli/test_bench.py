"""`eokit bench`: every benchmark in its smallest form, what it writes, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from eokit_bench.registry import BENCHMARKS
from eokit_cli.bench import between
from tests.bench.toys import toy_report
from tests.cli.stopping import stop

SMALLEST = {
    "attention": ("--seq-len", 4, "--positions", 4, "--heads", 2, "--head-dim", 16, "--device", "cpu"),
    "tokens": ("--positions", 8, "--width", 8, "--batch", 2, "--device", "cpu"),
    "pool": ("--seq-len", 5, "--positions", 3, "--heads", 2, "--width", 8, "--device", "cpu"),
    "mlp": ("--rows", 5, "--device", "cpu"),
    "losses": ("--rows", 12, "--width", 8, "--prototypes", 9, "--device", "cpu"),
    "loader": ("--seq-len", 4, "--patches", 2, "--size", 32, "--workers", 1),
    "train-step": ("--seq-len", 2, "--size", 16, "--batch", 2, "--device", "cpu"),
    "model anysat": ("--preset", "tiny", "--scene", "treesatai", "--metres", 20, "--most-dates", 2, "--device", "cpu"),
    "sequence": ("--seq-len", "2..3", "--size", 8, "--device", "cpu", "--backward"),
}
"""Arguments with which a benchmark is done in seconds."""

pytestmark = pytest.mark.timeout(120)


def test_every_benchmark_is_tried_here():
    assert SMALLEST.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_writes_json_and_a_picture(eokit, tmp_path, name):
    picture, saved = tmp_path / "a.png", tmp_path / "a.json"
    where = ("--plot", picture, "--save", saved)
    code, out, err = eokit("bench", *name.split(), *SMALLEST[name], "--turns", 3, "--json", "-q", *where)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report == json.loads(saved.read_text())
    assert report["benchmark"] == name
    assert all("ms" in told for row in report["rows"] for told in row["contenders"].values())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_people_get_a_table_and_where_eokit_loses(eokit):
    code, out, err = eokit("bench", "attention", *SMALLEST["attention"], "--turns", 3, "--no-backward")
    assert code == 0
    assert "Where eokit loses:" in out
    assert sum(line.strip().startswith("eokit") for line in out.splitlines()) == 3, "temporal, spatial and joint"
    assert "1/3" in err


def test_save_has_a_place_of_its_own(eokit, tmp_path):
    arguments = (*SMALLEST["attention"], "--axis", "temporal", "--no-backward", "--turns", 3)
    assert eokit("bench", "attention", *arguments, "-q", "--save")[0] == 0
    saved = tmp_path / "benchmarks/results/cpu/attention.json"
    before = saved.read_text()
    code, out, err = eokit("bench", "attention", *arguments, "-q", "--save")
    assert (code, out, saved.read_text()) == (2, "", before)
    assert "attention.json is there; name another file, or add --overwrite" in err
    assert eokit("bench", "attention", *arguments, "-q", "--save", "--overwrite")[0] == 0
    assert saved.read_text() != before


def test_a_folder_below_the_results_is_made(eokit, tmp_path):
    arguments = (*SMALLEST["attention"], "--axis", "temporal", "--no-backward", "--turns", 3)
    assert eokit("bench", "attention", *arguments, "-q", "--save", "benchmarks/results/mine/a.json")[0] == 0
    assert (tmp_path / "benchmarks/results/mine/a.json").is_file()


def test_a_wrong_kernel_is_an_error(eokit, monkeypatch):
    from eokit_bench import attention as bench

    monkeypatch.setattr(bench, "ours", lambda q, k, v, key_mask, axis: q)
    arguments = (*SMALLEST["attention"], "--axis", "temporal", "--no-backward", "--turns", 3)
    code, out, err = eokit("bench", "attention", *arguments)
    assert code == 1
    assert "eokit is wrong: out is off by" in err.splitlines()[-1]
    assert "eokit: wrong" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("attention", "--seq-len", "many"), "is no length"),
        (("attention", "--seq-len", "0"), "from 1 to 65536"),
        (("attention", "--seq-len", "36..12"), "the smaller one first"),
        (("attention", "--seq-len", "1..9999:1"), "at most 64"),
        (("attention", "--seq-len", "1..9:0"), "at least 1"),
        (("attention", "--seq-len", "65536", "--positions", "65536", "--batch", "9"), "GB"),
        (("attention", "--dtype", "int8"), "int8"),
        (("attention", "--device", "abacus"), "abacus"),
        (("attention", "--device", "mps"), "device 'mps' is unknown"),
        (("attention", "--turns", "1"), "--turns"),
        (("attention", "--threads", "100000"), "--threads"),
        (("attention", "--mask-rate", "1"), "--mask-rate"),
        (("sequence", "--preset", "none"), "tiny"),
        (("sequence", "--size", "31"), "multiple"),
        (("sequence", "--seq-len", "144", "--size", "40000", "--no-backward"), "--seq-len, --size, --batch: a case"),
        (("loader", "--size", "100000"), "--seq-len, --size: a case would take"),
        (("loader", "--patches", "100000000"), "choose smaller ones, or another folder with TMPDIR"),
        (("attention", "--plot", "x.txt"), ".png"),
        (("attention", "--plot", "no/where/x.png"), "there is no folder no/where"),
        (("attention", "--save", "no/where/x.json"), "there is no folder no/where; make it, or name another"),
        (("attention", "--save", "."), "is a folder; name a file"),
        (("nothing",), "nothing"),
    ],
)
def test_a_bad_option_is_a_usage_error(eokit, given, message):
    code, out, err = eokit("bench", *given)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_range_without_a_step_takes_sensible_lengths():
    assert between(6, 144) == (6, 12, 24, 36, 48, 60, 72, 96, 120, 144)
    assert between(100, 600) == (100, 120, 144, 288, 576, 600)
    assert between(5, 5) == (5,)


def test_compare_sets_two_reports_side_by_side(eokit, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(toy_report(1.0)))
    b.write_text(json.dumps(toy_report(3.0, other=0.2)))
    code, out, _ = eokit("bench", "compare", a, b)
    assert code == 0
    assert "1 slower, 0 faster" in out
    assert json.loads(eokit("bench", "compare", a, b, "--json")[1])["rows"][0]["ratio"] == pytest.approx(0.4)


def test_compare_fails_where_a_result_was_lost(eokit, tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(toy_report()))
    broken = toy_report()
    broken["rows"][0]["contenders"]["ours"] = {"why_not": "wrong: out is off by 1", "wrong": True}
    b.write_text(json.dumps(broken))
    code, _, err = eokit("bench", "compare", a, b)
    assert code == 1
    assert "ours lost its figure, wrong: out is off by 1" in err.splitlines()[-1]
    b.write_text(json.dumps(toy_report() | {"benchmark": "other"}))
    assert eokit("bench", "compare", a, b)[0] == 2


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_the_files_of_a_benchmark_go_when_it_is_stopped(tmp_path, asked):
    typed = ["bench", "loader", "--patches", "40", "--seq-len", "12", "-q"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    stop(typed, asked, lambda: list(tmp_path.glob("eokit-loader-*/*.npy")), env=environment)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        {"ms": "fast"},
        {"ms": 10**400},
        {"ms": math.nan},
        {"times_ours": -1.0},
        {"times_ours": True},
        {"times_ours_quartiles": [1.0]},
    ],
)
def test_compare_refuses_figures_that_cannot_be(eokit, tmp_path, damage):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(toy_report()))
    damaged = toy_report()
    damaged["rows"][0]["contenders"]["other"] |= damage
    b.write_text(json.dumps(damaged))
    code, _, err = eokit("bench", "compare", a, b)
    assert code == 3
    assert "b.json: is no whole report" in err


def test_a_share_that_is_no_number_is_refused(eokit):
    code, _, err = eokit("bench", "attention", "--mask-rate", "nan")
    assert code == 2
    assert "nan" in err


def test_compare_names_the_file_that_is_missing(eokit, tmp_path):
    code, _, err = eokit("bench", "compare", tmp_path / "none.json", tmp_path / "none.json")
    assert code == 3
    assert "none.json" in err


def test_benchmarks_import_with_torch_and_numpy_alone():
    code = "import sys, eokit_bench.attention, eokit_bench.report, eokit_bench.sequence; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"pydantic", "rich", "zarr", "matplotlib", "rasterio", "sklearn", "torchmetrics"}


HELP = {
    ("attention", "--mask-rate"): "Share that is masked, at random. [default: 0.0]",
    ("attention", "--backward / --no-backward"): "Only forward + backward, or not. [default: both]",
    ("sequence", "--backward / --no-backward"): "Only forward + backward, or not. [default: only forward]",
    ("tokens", "--positions"): "Tokens of a sample. [default: 1024]",
    ("tokens", "--batch"): "Samples at once. [default: 16]",
    ("pool", "--positions"): "Pixels of a series. [default: 1024]",
    ("mlp", "--rows"): "Pixel-dates. [default: 4096]",
    ("losses", "--rows"): "Features that are compared. [default: 2048]",
    ("losses", "--save"): "Write the JSON there; without a file to benchmarks/results/DEVICE/losses.json.",
}


@pytest.mark.parametrize(("name", "flag"), HELP, ids=lambda one: one)
def test_help_says_what_an_option_is_and_what_holds_without_it(eokit, name, flag):
    shown = " ".join(eokit("bench", name, "--help")[1].split())
    start = shown.index(f" {flag} ")
    assert HELP[name, flag] in shown[start : start + 200]
