"""Progress of long work, on stderr: a rich bar on a terminal, elsewhere now and then a line of text, or of JSON.

Which of the two is set once, by `eokit_cli`: JSON where --json asks for what machines read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

JSON_SECONDS, TEXT_SECONDS = 5.0, 20.0
"""Off a terminal, at most one line in this many seconds, and one at the end."""

WORDS = {
    "samples_s": "{:.3g} samples a second",
    "tiles_s": "{:.3g} tiles a second",
    "mb_s": "{:.3g} MB/s",
    "data_wait": "{:.0%} of the time spent waiting for data",
}
"""How facts are told to people; others by their names. JSON has the names of all."""

_as_json: ContextVar[bool] = ContextVar("progress_as_json", default=False)


@contextmanager
def progress_as_json(wanted: bool) -> Iterator[None]:
    """Within this context lines of progress are JSON if `wanted`, else text."""
    token = _as_json.set(wanted)
    try:
        yield
    finally:
        _as_json.reset(token)


class Progress:
    """`with Progress("prepare", total) as bar: bar.advance(1, mb_s=120)`; facts are shown beside the bar."""

    def __init__(self, label: str, total: int, *, quiet: bool = False, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._quiet, self._json = quiet, _as_json.get()
        self._facts: dict[str, Any] = {}
        self._bar: Any = None
        self._last, self._told = time.monotonic(), done

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.label, total=self.total, completed=self.done, facts="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and self.done > self._told:
            self._line()

    def advance(self, steps: int = 1, **facts: Any) -> None:
        """Count `steps` more done and show the newest facts."""
        self.done += steps
        self._facts = facts
        seconds = JSON_SECONDS if self._json else TEXT_SECONDS
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, facts=_text(facts))
        elif not self._quiet and self.done > self._told and time.monotonic() - self._last > seconds:
            self._line()

    def _line(self) -> None:
        self._last, self._told = time.monotonic(), self.done
        if self._json:
            facts = {key: float(f"{one:.4g}") if isinstance(one, float) else one for key, one in self._facts.items()}
            line = json.dumps({"progress": self.label, "done": self.done, "total": self.total} | facts)
        else:
            line = f"{self.label}: {self.done:,} of {self.total:,}  {_text(self._facts)}".rstrip()
        print(line, file=sys.stderr, flush=True)


def _text(facts: dict[str, Any]) -> str:
    return "  ".join(_told(key, value) for key, value in facts.items())


def _told(key: str, value: Any) -> str:
    if key in WORDS:
        return WORDS[key].format(value)
    return f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
