"""Which folds train, validate and test, and folds as people type them."""

from __future__ import annotations

from typing import NamedTuple

from eokit.errors import UsageError


class Split(NamedTuple):
    """Fold numbers of one run of a cross validation."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def parse_folds(text: str) -> tuple[int, ...]:
    """Fold numbers from "1-3", "1,2,5" or "1-3,5", in the order typed, each once."""
    folds: dict[int, None] = {}
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise UsageError(f"folds {text!r}: {part!r} is no fold; write them as 1-3 or 1,2,5")
        folds |= dict.fromkeys(range(int(first), int(last or first) + 1))
    return tuple(folds)
