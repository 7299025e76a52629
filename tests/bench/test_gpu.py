"""benchmarks/gpu.py without a GPU: every stage runs on a CPU in small, and what it says of tuning is a table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eokit.ops.attention.table import Row
from eokit_bench import gpu

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


def run_script(*arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EOKIT_BACKEND")}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, env=environment, cwd=SCRIPT.parents[1])


@pytest.mark.slow
def test_a_dry_run_goes_through_every_stage(tmp_path):
    done = run_script("--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stages = json.loads((tmp_path / "stages.json").read_text())
    assert list(stages) == list(gpu.STAGES)
    assert {one["returned"] for one in stages.values()} == {0}
    written = {path.stem for path in tmp_path.glob("*.json")}
    assert written >= {"build", "check-triton", "check-cuda", "tune", "table", "attention", "attention-masked", "tests"}
    assert not [name for name in written if name.endswith("-failed")]
    assert json.loads((tmp_path / "tests.json").read_text())["returned"] == 0
    for name in ("attention", "tune", "tokens-cpu", "losses-cpu"):
        report = json.loads((tmp_path / f"{name}.json").read_text())
        assert report["rows"]
        assert report["wrong"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = run_script()
    assert done.returncode == 2
    assert "torch sees no CUDA device; --dry-run walks" in done.stderr


def test_a_dry_run_does_not_write_among_measured_results():
    done = run_script("--dry-run")
    assert done.returncode == 2
    assert "--dry-run needs --out DIR" in done.stderr


def test_the_table_names_the_fastest_that_was_right():
    at = {"axis": "temporal", "T": 17, "N": 3, "D": 64, "dtype": "bfloat16", "mask_rate": 0.3}
    some = {"sdpa": {"ms": 2.0}, "triton": {"ms": 1.0}, "cuda": {"why_not": "wrong: out is off"}}
    rows = [
        {"at": at, "contenders": some},
        {"at": at | {"axis": "spatial", "mask_rate": 0}, "contenders": {"sdpa": {"ms": 2.0}, "triton": {"ms": 3.0}}},
        {"at": at, "contenders": {"cuda": {"why_not": "does not run"}}},
    ]
    table = gpu.table_of({"machine": {"device": "a GPU"}, "rows": rows})
    assert [Row(*row) for row in table["a GPU"]] == [
        Row("temporal", 17, 64, "bfloat16", True, "triton"),
        Row("spatial", 3, 64, "bfloat16", False, "sdpa"),
    ]


def test_a_backend_that_crashed_in_its_check_is_left_out(tmp_path):
    run = gpu.Run(tmp_path, until=float("inf"), dry=True)
    before = run.kernels
    run.save("stages", {"check-triton": {"returned": -11}, "check-cuda": {"returned": 0}})
    assert "reference" in before
    assert run.kernels == ["reference"]


def test_what_a_compiler_raises_costs_its_contender_alone():
    def broken(*arguments):
        raise KeyError("tile")

    with pytest.raises(RuntimeError, match="KeyError: 'tile'"):
        gpu.guarded(broken)(1)
