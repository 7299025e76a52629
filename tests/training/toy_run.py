"""Runs the toy recipe as its own process (`python -m tests.training.toy_run`), to be killed, signalled or torchrun."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from eokit.errors import EokitError
from eokit.training.engine import LoopSettings, fit
from eokit.training.run import About
from tests.training.toys import ToyData, ToyRecipe


class Eventful(ToyRecipe):
    """The toy that kills its process after a step, or tells its parent that it is under way."""

    def __init__(self, kill_after: int, steps: int, slow: bool, **toy: float) -> None:
        super().__init__(**toy)
        self.kill_after, self.steps, self.slow = kill_after, steps, slow

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        if round(progress * self.steps) == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.slow:
            print("step", flush=True)
            time.sleep(0.05)


def train(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-after", type=int, default=-1)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--broken", type=int, help="the sample that cannot be read")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("settings", nargs="*", help="key=value of LoopSettings")
    given = parser.parse_intermixed_args(arguments)
    values = dict(pair.split("=") for pair in given.settings)
    settings = LoopSettings.model_validate({"steps": "20", "batch_size": "4", "workers": "0", "lr": "0.01"} | values)
    recipe = Eventful(given.kill_after, settings.steps, given.slow, dropout=given.dropout)
    about = About(settings.model_dump(mode="json"), again="toy --resume", quiet=True)
    fit(recipe, ToyData(broken=given.broken), settings, given.out, resume=given.resume, about=about)


def say_threads() -> None:
    """The names of this process's threads, those of C++ libraries among them, where Linux tells them."""
    tasks = Path("/proc/self/task")
    if tasks.is_dir():
        names = []
        for task in tasks.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends while they are listed
                names.append((task / "comm").read_text().strip())
        # One write: where Python does not buffer, print writes word by word, and two processes' words would mix.
        os.write(sys.stdout.fileno(), f"{' '.join(['threads', *names])}\n".encode())


if __name__ == "__main__":
    try:
        train(sys.argv[1:])
        say_threads()
    except EokitError as error:
        say_threads()
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
