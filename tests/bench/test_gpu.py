"""benchmarks/gpu.py without a GPU: every stage runs on a CPU in small, and what it says of tuning is a table."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eokit.ops.attention.table import Row
from eokit_bench import gpu, gpu_run, gpu_stages, gpu_tune

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


def run_script(*arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "EOKIT_BACKEND")}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, env=environment, cwd=SCRIPT.parents[1])


@pytest.mark.slow
def test_a_dry_run_goes_through_every_stage(tmp_path):
    done = run_script("--dry-run", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.startswith("rehearsal on a CPU with tiny sizes: no GPU is used\n")
    assert "no GPU was used, they say nothing of one\nno problems" in done.stdout
    assert done.stdout.count(": limit ") == len(gpu.STAGES)
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


@pytest.fixture
def run(tmp_path):
    """A rehearsal with time left."""
    return gpu_run.Run(tmp_path, until=time.time() + 600, dry=True)


def test_a_stage_that_is_killed_while_it_writes_leaves_what_was_there(run, monkeypatch):
    whole = Path.write_text

    def half(path, text, **named):
        whole(path, text[: len(text) // 2], **named)
        raise KeyboardInterrupt

    run.save("stages", {"build": {"returned": 0}})
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        run.save("stages", {"build": {"returned": 1}})
    assert run.read("stages") == {"build": {"returned": 0}}


def off_by_one(*given, **named):
    return gpu_run.ours(*given, **named) + 1


def test_the_table_names_the_fastest_that_was_right():
    at = {"axis": "temporal", "T": 17, "N": 3, "D": 64, "dtype": "bfloat16", "mask_rate": 0.3, "pass": "forward"}
    some = {"sdpa": {"ms": 2.0}, "eokit triton": {"ms": 1.0}, "eokit cuda": {"why_not": "wrong: out is off"}}
    plain, both = {"axis": "spatial", "mask_rate": 0}, {"mask_rate": 0, "bias": True, "pass": "forward + backward"}
    rows = [
        {"at": at, "contenders": some},
        {"at": at | plain, "contenders": {"sdpa": {"ms": 2.0}, "eokit triton": {"ms": 3.0}}},
        {"at": at | both, "contenders": {"eokit cuda": {"ms": 2.0}}},
        {"at": at, "contenders": {"eokit cuda": {"why_not": "does not run"}}},
    ]
    table = gpu_tune.table_of({"machine": {"device": "a GPU"}, "rows": rows})
    assert [Row(*row) for row in table["a GPU"]] == [
        Row("temporal", 17, 64, "bfloat16", "mask", False, "triton"),
        Row("spatial", 3, 64, "bfloat16", "nothing", False, "sdpa"),
        Row("temporal", 17, 64, "bfloat16", "bias", True, "cuda"),
    ]


def test_tuning_begins_with_the_common_case_and_comes_to_every_cell(run):
    found = gpu_tune.cells(gpu_tune.OPTIONS)
    assert found[0] == {name: values[0] for name, values in gpu_tune.OPTIONS.items()}
    common = [number for number, one in enumerate(found) if one | {"length": 144} == found[0]]
    assert len(common) == 6
    assert common[-1] < len(found) / 10
    everything = {tuple(one.values()) for one in found}
    assert len(found) == len(everything) == 6 * 3 * 3 * 2 * 3 * 2
    shape = gpu_tune.shape_of(run, found[0] | {"added": "bias", "dtype": "float32"})
    assert (shape.biased, shape.mask_rate, shape.backward) == (True, 0.0, True)


@pytest.mark.parametrize(("memory", "elements"), [(80e9, 2**28), (24e9, 2**26), (8e9, 2**24)])
def test_the_data_are_bounded_by_memory_and_by_what_torch_launches(tmp_path, monkeypatch, memory, elements):
    monkeypatch.setattr(gpu_run, "memory_bytes", lambda device: int(memory))
    real = gpu_run.Run(tmp_path, until=0, dry=False)
    assert real.elements == elements
    for axis in ("temporal", "spatial"):
        for length in (16, 144, 512):
            batch, dates, positions, heads, _ = size = real.size(axis, length, 32)
            assert torch.Size(size).numel() <= elements
            assert (dates if axis == "temporal" else positions) == length
            assert max(batch, positions * heads if axis == "temporal" else batch * dates) <= 65_535
    assert torch.Size(real.size("temporal", 144, 64)).numel() > 0.9 * elements
    settings = gpu_stages.row_settings(real)
    tokens, pool = settings["tokens"], settings["pool"]
    for moved in (tokens.batch * tokens.positions * tokens.width, pool.positions * pool.seq_len[0] * pool.width):
        assert elements < moved <= 2 * elements


def test_a_backend_that_crashed_in_its_check_is_left_out(run):
    before = run.kernels
    run.save("stages", {"check-triton": {"returned": -11}, "check-cuda": {"returned": gpu_run.PROBLEMS}})
    assert "reference" in before
    assert run.kernels == ["reference"]


def test_what_a_compiler_raises_costs_its_contender_alone():
    def broken(*arguments):
        raise KeyError("tile")

    with pytest.raises(RuntimeError, match="KeyError: 'tile'"):
        gpu_run.guarded(broken)(1)


def test_a_wrong_result_in_the_check_is_a_problem(run, monkeypatch):
    assert gpu_stages.check(run, "cuda") == []
    monkeypatch.setattr(gpu_run.Run, "contender", lambda self, backend: off_by_one)
    problems = gpu_stages.check(run, "cuda")
    assert len(problems) == 18
    assert problems[0].startswith("reference bfloat16 D=8 T=3 mask_rate=0.0: wrong: out is off by")


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return 7 * grad + 100


def wrong_for_biases(*given, bias=None, **named):
    wrong = bias is not None and bias.dtype == torch.bfloat16
    return gpu_run.ours(*given, bias=WrongBackward.apply(bias) if wrong else bias, **named)


def test_a_wrong_gradient_of_a_bias_is_found_and_not_timed(run, monkeypatch):
    cells = [cell for cell in gpu_tune.cells(gpu_tune.FEW | {"dtype": ("bfloat16", "float16")}) if cell["length"] == 3]
    assert not any("reference" in gpu_tune.kernels_for(run, one) for one in cells if needs_bias_gradient(one))
    assert gpu_stages.check(run, "cuda") == []
    assert all("reference" in gpu_tune.kernels_for(run, one) for one in cells)
    monkeypatch.setattr(gpu_run.Run, "contender", lambda self, backend: wrong_for_biases)
    problems = gpu_stages.check(run, "cuda")
    assert len(problems) == 2
    assert all("with a bias: wrong: grad_bias is off by" in line for line in problems)
    left_out = [one for one in cells if "reference" not in gpu_tune.kernels_for(run, one)]
    assert left_out == [one for one in cells if needs_bias_gradient(one) and one["dtype"] == "bfloat16"]


def needs_bias_gradient(cell):
    return cell["added"] == "bias" and cell["gradients"]


def test_a_bias_that_was_not_checked_at_a_width_is_not_timed_there(run):
    assert gpu_stages.check(run, "cuda") == []
    assert run.has_right_bias_gradient("reference", "float16", 8)
    assert not run.has_right_bias_gradient("reference", "float16", 9)


def test_a_check_without_time_is_a_problem(run):
    assert "no time for all cases" in gpu_stages.check(replace(run, until=0), "cuda")[0]


@pytest.mark.parametrize("stage", [gpu_stages.attend_masked, gpu_tune.tune])
def test_a_wrong_or_broken_kernel_of_ours_is_a_problem_where_it_is_timed_and_no_end_of_the_stage(
    run, monkeypatch, stage
):
    def broken(*given, **named):
        raise RuntimeError("no such tile")

    honest = gpu_run.Run.contender
    wanted = {"cpu": broken, "reference": off_by_one}
    monkeypatch.setattr(gpu_run.Run, "contender", lambda self, name: wanted.get(name) or honest(self, name))
    problems = stage(run)
    assert any("eokit reference wrong: out is off" in line for line in problems)
    assert any("eokit cpu does not run: no such tile" in line for line in problems) or "cpu" not in run.kernels
    assert not [line for line in problems if "sdpa" in line]


def test_a_library_that_is_not_built_is_a_problem_with_what_the_build_lacks():
    told = {"returned": 0, "built": {"_C": "built", "_C_cuda": "built"}, "lacking": ["ninja is missing"]}
    assert gpu_stages.unbuilt(told) == []
    assert gpu_stages.unbuilt(told | {"built": {"_C": "built", "_C_cuda": "left out, no nvcc"}}) == [
        "_C_cuda is not built: left out, no nvcc",
        "ninja is missing",
    ]
    assert [line[:16] for line in gpu_stages.unbuilt(told | {"built": {}, "returned": 1})][:2] == [
        "_C is not built:",
        "_C_cuda is not b",
    ]


def test_what_a_build_lacks_is_named(monkeypatch):
    versions = {"setuptools": "68.1.2", "torch": "2.11.0+cu130"}

    def version(name):
        if name not in versions:
            raise gpu_stages.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(gpu_stages.metadata, "version", version)
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name: None)
    assert gpu_stages.unmet() == [
        "setuptools is 68.1.2, a build needs setuptools>=77: pip install 'setuptools>=77'",
        "pybind11 is missing, a build needs pybind11>=2.13: pip install 'pybind11>=2.13'",
        "ninja is missing, a build needs ninja: pip install 'ninja'",
    ]
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "ninja" else None)
    assert not [line for line in gpu_stages.unmet() if "ninja" in line]


def test_a_test_that_fails_is_a_problem_even_where_time_ends_the_others(run, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_losses_a(): assert 0\ndef test_losses_b(): pass\ndef test_losses_c(): time.sleep(60)\n"
    )
    problems = gpu_stages.tests(replace(run, until=time.time() + 15), folder=str(tmp_path))
    assert [line.split("::")[-1] for line in problems] == ["test_losses_a failed"]
    assert run.read("tests")["returned"] is None


def test_tests_that_do_not_begin_are_a_problem(run, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert gpu_stages.tests(run, folder=str(tmp_path / "nothing"))[0].startswith("pytest ended with 5")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "no problems"),
        (gpu_run.PROBLEMS, "build: no nvcc"),
        (-11, "build: crashed with"),
        (None, "build: ended after"),
    ],
)
def test_the_exit_status_and_the_last_lines_tell_what_was_wrong(tmp_path, monkeypatch, capsys, code, told):
    def stage(command, seconds):
        name = command[command.index("--stage") + 1]
        run = gpu_run.Run(tmp_path, until=0, dry=True)
        run.save("stages", run.read("stages") | {name: {"problems": ["no nvcc"] if code and name == "build" else []}})
        return code if name == "build" else 0

    monkeypatch.setattr(gpu, "run_limited", stage)
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == (0 if code == 0 else 1)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(told) for line in lines[-2:])
    assert json.loads((tmp_path / "stages.json").read_text())["build"]["returned"] == code


def test_a_stage_ends_with_the_status_of_its_problems(tmp_path, monkeypatch):
    for problems, status in (([], 0), (["a line"], gpu_run.PROBLEMS)):
        monkeypatch.setitem(gpu.STAGES, "flex", (lambda run, found=problems: found, 1.0))
        assert gpu.main(["--dry-run", "--out", str(tmp_path), "--stage", "flex"]) == status
        assert json.loads((tmp_path / "stages.json").read_text())["flex"]["problems"] == problems


def test_a_stage_that_is_ended_takes_its_children_with_it(tmp_path):
    pid = tmp_path / "pid"
    assert gpu.run_limited(["sh", "-c", f"sleep 300 & echo $! > {pid}; wait"], 2) is None
    deadline = time.time() + 20
    while is_running(int(pid.read_text())) and time.time() < deadline:
        time.sleep(0.1)
    assert not is_running(int(pid.read_text()))


def is_running(pid):
    """Whether the process is there and not only waits to be reaped."""
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
