"""Progress of long work, on stderr: a rich bar on a terminal, one JSON line every few seconds elsewhere."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

QUIET_SECONDS = 5.0
"""Off a terminal, at most one line in this many seconds."""


class Progress:
    """`with Progress("prepare", total) as bar: bar.advance(1, mb_s=120)`; facts are shown beside the bar."""

    def __init__(self, label: str, total: int, *, quiet: bool = False, done: int = 0) -> None:
        self.label, self.total, self.done = label, total, done
        self._quiet = quiet
        self._facts: dict[str, Any] = {}
        self._bar: Any = None
        self._last = time.monotonic()

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
        elif not self._quiet and self.done:
            self._line()

    def advance(self, steps: int = 1, **facts: Any) -> None:
        """Count `steps` more done and show the newest facts."""
        self.done += steps
        self._facts = facts
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, facts=_text(facts))
        elif not self._quiet and time.monotonic() - self._last > QUIET_SECONDS:
            self._line()

    def _line(self) -> None:
        self._last = time.monotonic()
        facts = {key: float(f"{one:.4g}") if isinstance(one, float) else one for key, one in self._facts.items()}
        line = {"progress": self.label, "done": self.done, "total": self.total} | facts
        print(json.dumps(line), file=sys.stderr, flush=True)


def _text(facts: dict[str, Any]) -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in facts.items()}
    return "  ".join(f"{key} {value}" for key, value in shown.items())
