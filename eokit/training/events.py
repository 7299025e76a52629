"""What a run says of itself: one JSON line an event in `events.jsonl`, and the figures that go into it.

Events: start, train (every `log_every` steps), validation, saved, warning, end. Read by eokit.viz.curves and by people.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eokit.errors import EokitError
from eokit.files import write_text, writing
from eokit.training.distributed import Team

FILE = "events.jsonl"

COLLAPSED = {"feature_std": 0.05, "effective_rank": 2.0}
"""Below these a recipe's features have collapsed: nearly the same vector for every token, or all on one line."""


class EventLog:
    """Appends events to `run/events.jsonl`; a continued run first drops the events after step `upto`."""

    def __init__(self, run: Path, *, upto: int, enabled: bool = True) -> None:
        self._file = run / FILE
        self._enabled = enabled
        if enabled:
            kept = [event for event in read_events(run) if event["step"] <= upto] if upto else []
            write_text(self._file, "".join(json.dumps(event) + "\n" for event in kept))

    def write(self, event: str, step: int, **facts: Any) -> None:
        """One event; numbers that JSON lacks (nan, inf) are written as text."""
        if not self._enabled:
            return
        line = {"event": event, "step": step, "time": round(time.time(), 3)} | facts
        plain = {
            key: str(one) if isinstance(one, float) and not math.isfinite(one) else one for key, one in line.items()
        }
        with writing(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")


def read_events(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The events of a run folder, of one kind or all; a last line that was cut by a kill is left out."""
    try:
        lines = (run / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for number, line in enumerate(lines):
        try:
            events.append(json.loads(line))
        except ValueError:
            if number + 1 < len(lines):
                raise EokitError(
                    f"{run / FILE}: line {number + 1} is no JSON: {line[:60]!r}; remove that line"
                ) from None
    return [one for one in events if event in (None, one["event"])]


class Meter:
    """Figures of the steps since the last event, kept on the device so that a step does not wait for them."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._rows: list[Tensor] = []
        self._names: list[str] = []
        self._warned: set[str] = set()

    def add(self, figures: dict[str, Tensor]) -> None:
        """The figures of one step, each () and the same names every step."""
        self._names = sorted(figures)
        self._rows.append(torch.stack([figures[name].detach().float() for name in self._names]))

    def read(self, step: int, saved: str) -> dict[str, float]:
        """Their means over the steps since the last event and over processes; forgets them.

        step: the newest step (steps done). saved: the last good checkpoint, for the error that a loss or a gradient
        that is not finite raises.
        """
        table = (self._team.sum(torch.stack(self._rows)) / self._team.size).double().cpu()
        self._rows = []
        first = step - len(table) + 1
        for name in ("loss", "grad_norm"):
            column = table[:, self._names.index(name)]
            bad = (~column.isfinite()).nonzero().flatten().tolist()
            if bad:
                raise EokitError(
                    f"{name} is {column[bad[0]].item()} at step {first + bad[0]}; the last good checkpoint is {saved};"
                    " try a lower --lr, precision fp32 or a smaller clip in a new --out"
                )
        return dict(zip(self._names, table.mean(0).tolist(), strict=True))

    def collapse(self, means: dict[str, float]) -> Iterator[str]:
        """A line for each figure that says, for the first time, that the features have collapsed."""
        for name, least in COLLAPSED.items():
            if means.get(name, math.inf) < least and name not in self._warned:
                self._warned.add(name)
                yield f"{name} is {means[name]:.3g}, below {least}: the features may have collapsed; try a lower lr"


class Clock:
    """Where the time goes: waiting for data, and all of it. The first batch (workers starting up) is not counted."""

    def __init__(self) -> None:
        self.begun = self._mark = time.perf_counter()
        self._steady: float | None = None
        self.waited = 0.0
        self._marked_wait = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in this context is spent waiting for data."""
        before = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._steady is None:
            self._steady = self._mark = now
        else:
            self.waited += now - before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time in this context (validating, saving) is no part of any step."""
        before = time.perf_counter()
        yield
        spent = time.perf_counter() - before
        self._mark += spent
        if self._steady is not None:
            self._steady += spent

    def lap(self, samples: int) -> dict[str, float]:
        """Samples a second and share of the time spent waiting since the last lap."""
        now = time.perf_counter()
        seconds, waited = now - self._mark, self.waited - self._marked_wait
        self._mark, self._marked_wait = now, self.waited
        return {"samples_s": samples / seconds, "data_wait": waited / seconds}

    @property
    def seconds(self) -> float:
        """Since the run (or its continuation) began."""
        return time.perf_counter() - self.begun

    @property
    def share(self) -> float:
        """Share of all steady time that was spent waiting for data."""
        return self.waited / (time.perf_counter() - self._steady) if self._steady is not None else 0.0
