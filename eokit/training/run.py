"""The folder of a run and its book-keeping, so that the loop in engine.py is about training only."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from eokit.files import write_text, writing
from eokit.training.checkpoint import (
    FOLDER,
    State,
    drop_later,
    find_start,
    load_checkpoint,
    load_recipe,
    prune,
    save_checkpoint,
    step_name,
)
from eokit.training.distributed import Team
from eokit.training.events import Clock, EventLog, Meter, read_events
from eokit.training.settings import LoopSettings

SETTINGS_FILE = "settings.yaml"
SPEED = ("event", "step", "time", "lr", "samples_s", "data_wait")
"""What a train event holds besides the recipe's figures."""


@dataclass(frozen=True)
class About:
    """What a run was started with. settings: plain values; a continued run must have the same (harmless keys apart).

    again: the command that continues it, for the message of an interrupted run. quiet: no progress on stderr.
    """

    settings: dict[str, Any]
    again: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Validation:
    """Every `every` steps and after the last, `run()` scores the recipe; the highest `metric` names the best state.

    run: called by every process with the recipe in eval mode and without gradients; the first one's figures count.
    patience: stop after this many validations without a better one; None: never.
    before: score the recipe before the first step as well; training may make a good start worse.
    """

    every: int
    run: Callable[[], dict[str, float]]
    metric: str
    patience: int | None = None
    before: bool = False


@dataclass(frozen=True)
class FitResult:
    """How a run ended. With a validation the recipe holds the weights of `best_step`, else those of `step`.

    figures: means of the last train event. data_wait: share of this process's time spent waiting for data.
    """

    step: int
    seconds: float
    figures: dict[str, float]
    data_wait: float
    best_metric: float | None = None
    best_step: int | None = None
    stopped_early: bool = False


class Run:
    """One run on disk: where it is (`state`), what it says (`record`), and how it goes on (`save`, `begin`)."""

    def __init__(self, path: Path, team: Team, loop: LoopSettings, about: About) -> None:
        self.path, self.state = path, State()
        self.clock, self.meter = Clock(), Meter(team)
        self.quiet = about.quiet or not team.first
        self.team, self._loop, self._about = team, loop, about
        self._newest: Path | None = None
        self._last_event = 0
        self._shown: dict[str, float] = {}
        self._figures: dict[str, float] = {}

    def begin(self, resume: bool | Path, recipe: nn.Module, optimizer: torch.optim.Optimizer) -> State:
        """Start the folder or go on from a checkpoint; returns how far the run is (kept up to date by the loop)."""
        team, about = self.team, self._about
        start = team.agree(find_start(self.path, resume) if team.first else None)
        if start is not None:
            self.state = load_checkpoint(start, recipe, optimizer, about.settings)
            self._newest = start
        team.wait()
        self._last_event = self.state.step
        if team.first:
            with writing(self.path):
                drop_later(self.path / FOLDER, self.state.step)
                text = yaml.safe_dump(about.settings, sort_keys=False, allow_unicode=True)
                write_text(self.path / SETTINGS_FILE, text)
        self._events = EventLog(self.path, upto=self.state.step, enabled=team.first)
        self._events.write(
            "start", self.state.step, steps=self._loop.steps, processes=team.size, device=str(team.device)
        )
        if start is not None:
            self._tell(f"going on from {start} ({self.state.step} of {self._loop.steps} steps done)")
        return self.state

    def record(self, rate: float) -> None:
        """One train event: means since the last one, speed, and a warning where features collapse."""
        step = self.state.step
        means = self.meter.read(step, str(self._newest or "none yet"))
        speed = self.clock.lap((step - self._last_event) * self._loop.batch_size)
        self._last_event = step
        self._shown = {"loss": means["loss"], "samples_s": speed["samples_s"], "data_wait": speed["data_wait"]}
        self._figures = means
        self._events.write("train", step, lr=rate, **means, **speed)
        for line in self.meter.collapse(means):
            self._events.write("warning", step, message=line)
            self._tell(f"warning: step {step}: {line}")

    def facts(self) -> dict[str, float]:
        """What is shown beside the progress bar."""
        return self._shown

    def validate(self, recipe: nn.Module, validation: Validation) -> bool:
        """Score the recipe; whether it is the best so far."""
        recipe.eval()
        with torch.no_grad(), self.clock.aside():
            figures = self.team.agree(validation.run())
        recipe.train()
        state, metric = self.state, float(figures[validation.metric])
        better = metric > (-math.inf if state.best_metric is None else state.best_metric)
        if better:
            state.best_step, state.best_metric, state.stale = state.step, metric, 0
        else:
            state.stale += 1
        self._events.write("validation", state.step, **figures)
        self._shown[validation.metric] = metric
        return better

    def save(self, recipe: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint and drop those that are no longer kept."""
        if self.team.first:
            folder = self.path / FOLDER
            with self.clock.aside():
                self._newest = save_checkpoint(folder, self.state, recipe, optimizer, self._about.settings)
                prune(folder, self._loop.keep)
            self._events.write("saved", self.state.step, checkpoint=self._newest.name)

    def interrupted(self, cause: str) -> str:
        """The message of a run that was stopped after saving."""
        again = self._about.again or f"resume {shlex.quote(str(self.path))}"
        return f"{cause} after step {self.state.step} of {self._loop.steps}, saved; go on with: {again}"

    def end(self, recipe: nn.Module, stopped_early: bool) -> FitResult:
        """Put the best weights into the recipe, if a validation chose them, and sum the run up."""
        state = self.state
        self.team.wait()
        if state.best_step is not None:
            load_recipe(self.path / FOLDER / step_name(state.best_step), recipe)
        self._events.write("end", state.step, seconds=self.clock.seconds, data_wait=self.clock.share)
        if not self._figures:  # nothing was left to do
            told: dict[str, Any] = next(reversed(read_events(self.path, "train")), {})
            self._figures = {name: value for name, value in told.items() if name not in SPEED}
        return FitResult(
            step=state.step,
            seconds=self.clock.seconds,
            figures=self._figures,
            data_wait=self.clock.share,
            best_metric=state.best_metric,
            best_step=state.best_step,
            stopped_early=stopped_early,
        )

    def _tell(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)
