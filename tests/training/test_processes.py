"""Runs that are killed, signalled, or spread over processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from eokit.training.checkpoint import checkpoints
from eokit.training.events import read_events
from tests.training.toy_run import train

ROOT = Path(__file__).parents[2]
TOY = [sys.executable, "-m", "tests.training.toy_run"]
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def toy(*arguments, launch=TOY):
    command = [*launch, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120, check=False)


def here(*arguments):
    """The same run inside this process, which saves the start of another one."""
    train(list(map(str, arguments)))


def losses(run):
    return {event["step"]: event["loss"] for event in read_events(run, "train")}


def final_tensors(run):
    return load_file(checkpoints(run / "checkpoints")[-1] / "state.safetensors")


def same_bits(run, other):
    ours, theirs = final_tensors(run), final_tensors(other)
    return ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


def test_a_killed_and_continued_run_has_the_bits_of_a_whole_one(tmp_path):
    book = ("save_every=10", "log_every=1", "--dropout", 0.3)
    here(tmp_path / "whole", *book)
    assert toy(tmp_path / "run", *book, "--kill-after", 13).returncode == -signal.SIGKILL
    assert max(losses(tmp_path / "run")) >= 11
    assert toy(tmp_path / "run", *book, "--resume").returncode == 0
    assert same_bits(tmp_path / "run", tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    run = tmp_path / "run"
    command = [*TOY, str(run), "--slow", "steps=2000"]
    with subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=-1, stderr=-1, text=True) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    done = int(re.search(rf"{number.name} after step (\d+) of 2000, saved; go on with: toy --resume", message)[1])
    assert checkpoints(run / "checkpoints")[-1].name == f"step-{done:06d}"


@pytest.mark.slow
def test_loader_processes_give_the_same_losses(tmp_path):
    here(tmp_path / "none", "workers=0")
    assert toy(tmp_path / "two", "workers=2").returncode == 0
    assert losses(tmp_path / "none") == losses(tmp_path / "two")


def no_threads_of_gloo(said):
    """Whether both processes named their threads, and none was of gloo: one that is left aborts or hangs at times."""
    return said.count("threads ") == 2 and "gloo" not in said


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *TOY[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_losses_of_one(tmp_path, accumulate):
    here(tmp_path / "one", "log_every=1")
    done = toy(tmp_path / "two", "log_every=1", f"accumulate={accumulate}", launch=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert no_threads_of_gloo(done.stdout)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    # The same sums in another order: float32 rounding, grown over 20 steps.
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_all_processes_stop_at_one_signal(tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, str(run), "--slow", "steps=2000"]
    with subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=-1, stderr=-1, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        said, message = process.communicate(timeout=60)
    assert "saved; go on with: toy --resume" in message
    assert no_threads_of_gloo(said)
    assert checkpoints(run / "checkpoints")


@pytest.mark.slow
def test_an_error_in_a_loader_process_stays_one_line(tmp_path):
    done = toy(tmp_path / "run", "workers=1", "--broken", 3)
    assert (done.returncode, done.stderr) == (3, "sample 3 is cut\n")
