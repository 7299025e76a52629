"""What a published data set's file offers, and how it says what is missing in a copy of it.

Called by the formats themselves and by `eokit prepare` and `eokit datasets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from eokit.data.spec import Source
from eokit.errors import DataError

OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Download:
    """One published archive of a data set: its title, where it is, how big (GB, compressed as published)."""

    title: str
    url: str
    size_gb: float | None

    @property
    def size(self) -> str:
        """The size in words."""
        return "size not known here" if self.size_gb is None else f"{self.size_gb:.0f} GB"


@dataclass(frozen=True)
class FormatInfo:
    """A published data set in words, for `eokit datasets` and for the store's attributes."""

    name: str
    title: str
    summary: str
    downloads: tuple[Download, ...]
    licence: str
    citation: str
    sensors: tuple[str, ...]
    classes: tuple[str, ...]
    folds: str
    tree: str


class FormatSource(Source, Protocol):
    """A source that also says what its copy lacks or which patches it leaves out: one line each."""

    notes: Sequence[str]


class Format(Protocol):
    """A module of `eokit.data.formats`: these names at its top level."""

    INFO: FormatInfo

    @staticmethod
    def find(folder: Path) -> Path | None:
        """The data set's tree at `folder` or one level below it, None where there is none."""

    @staticmethod
    def open_source(
        path: Path, *, modalities: Sequence[str] | None = None, limit: int | None = None, on_error: OnError = "stop"
    ) -> FormatSource:
        """A source for `write_store`, every patch checked as far as file headers tell; DataError with all problems."""

    @staticmethod
    def check(path: Path, *, modalities: Sequence[str] | None = None) -> Findings:
        """What is wrong with a copy and what it lacks, without raising and without reading pixels."""


class Findings:
    """Problems (they stop a preparation) and notes (they do not), many patches with the same trouble in one line."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._problems: dict[str, dict[str | None, str]] = {}

    def problem(self, kind: str, message: str, patch: str | None = None) -> None:
        """A trouble of this `kind`, of one patch or of the whole copy; the `message` of the first one is shown."""
        self._problems.setdefault(kind, {}).setdefault(patch, message)

    def damage(self, what: str, error: Exception, patch: str) -> None:
        """The error that a file of a patch raised; alike are those of the same files that begin with the same words."""
        words = str(error).partition(": ")[2].split()[:3]
        self.problem(" ".join((what, *words)), str(error), patch)

    def note(self, message: str) -> None:
        """Something worth knowing, said once."""
        if message not in self.notes:
            self.notes.append(message)

    @property
    def patches(self) -> dict[str, str]:
        """Patches that have a problem: id -> the first one. None of the whole copy's problems is among them."""
        found: dict[str, str] = {}
        for messages in self._problems.values():
            found = {patch: message for patch, message in messages.items() if patch is not None} | found
        return found

    @property
    def lines(self) -> list[str]:
        """One line per kind of problem, with how many patches share it."""
        return [_line(list(messages.values())) for messages in self._problems.values()]

    def refuse(self, on_error: OnError = "stop") -> None:
        """A DataError with one line per kind of problem; with "skip" only where the whole copy has one."""
        whole = [messages[None] for messages in self._problems.values() if None in messages]
        lines = self.lines if on_error == "stop" else whole
        if lines:
            raise DataError(*lines)


def _line(messages: list[str]) -> str:
    more = len(messages) - 1
    return messages[0] + (f" (and {more} more patch{'es' if more > 1 else ''} alike)" if more else "")
