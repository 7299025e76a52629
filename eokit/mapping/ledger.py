"""What is finished of an output that grows in a folder beside it, so that a killed run can go on.

    OUT.partial/progress.json    how many parts are done, what the output is made of, facts that go with the parts done

A part is counted only after it was written. Called by `eokit.mapping.progress_file` and `embed`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from eokit.errors import UsageError
from eokit.files import writing

STATE = "progress.json"


class Ledger:
    """`done` of `total` parts of `out` are finished; `facts` are plain values that are kept with that number."""

    def __init__(
        self, out: Path, total: int, made_of: dict[str, Any], *, resume: bool, overwrite: bool, what: str = "map"
    ) -> None:
        """Begin, or go on with what is there; a UsageError where that is of something else or was not asked for."""
        self.folder, self.total = partial_folder(out), total
        self.made_of = json.loads(json.dumps(made_of))
        self.done = 0
        self.facts: dict[str, Any] = {}
        if self.folder.exists():
            self._take_over(out, resume, overwrite, what)
        with writing(self.folder, hint="add --resume"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        """Write down `done` and `facts`."""
        state = {"done": self.done, "facts": self.facts, "made_of": self.made_of}
        aside = self.folder / f"{STATE}.tmp"
        with writing(self.folder, hint="add --resume"):
            aside.write_text(json.dumps(state), encoding="utf-8")
            aside.replace(self.folder / STATE)

    def remove(self) -> None:
        """Forget the unfinished output, when the whole one is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take_over(self, out: Path, resume: bool, overwrite: bool, what: str) -> None:
        """Continue what is there, or clear it away, or say that the two do not go together."""
        state = self._read_state()
        if overwrite or state is None:
            self.remove()
        elif not resume:
            share = state["done"] / max(self.total, 1)
            raise UsageError(
                f"{self.folder}: an unfinished {what} ({share:.0%}) is here; add --resume to continue it or --overwrite"
                " to start again"
            )
        elif difference := first_difference(state["made_of"], self.made_of):
            raise UsageError(f"{out}: cannot be continued, {difference}; add --overwrite to start again")
        else:
            self.done, self.facts = int(state["done"]), state["facts"]

    def _read_state(self) -> dict[str, Any] | None:
        """The state of an earlier run; None where it left none that can be used."""
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state if isinstance(state, dict) and {"done", "facts", "made_of"} <= state.keys() else None


def partial_folder(out: Path) -> Path:
    """Where the unfinished map of `out` lives."""
    return out.with_name(f"{out.name}.partial")


def first_difference(old: Any, new: Any, name: str = "") -> str | None:
    """Where two plain structures differ first, in words: `tile was 128 and is now 64`; None where they do not."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if found := first_difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key)):
                return found
        return None
    if old == new:
        return None
    words = [text if len(text := json.dumps(one)) <= 40 else text[:37] + "..." for one in (old, new)]
    if words[0] == words[1]:
        return f"{name} is no longer the same"
    return f"{name} was {words[0]} and is now {words[1]}"
