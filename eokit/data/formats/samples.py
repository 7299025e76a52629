"""What the readers of all data sets do alike: choose samples, leave broken ones out, tell what is wrong with a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from eokit.data.formats.base import Findings, OnError
from eokit.errors import DataError, UsageError


class Sampled(Protocol):
    """A sample as a format knows it before it is read."""

    @property
    def id(self) -> str:
        """Its name, once in a data set."""

    @property
    def fold(self) -> int:
        """The fold it belongs to."""


One = TypeVar("One", bound=Sampled)


def require_folder(path: Path, holds: str) -> None:
    """DataError unless `path` is a folder; `holds`: what the one that is meant holds."""
    if not path.exists():
        raise DataError(f"{path}: no such folder; give the one that holds {holds}")
    if not path.is_dir():
        raise DataError(f"{path}: is a file, expected the folder that holds {holds}; unpack archives first")


def limited(samples: Sequence[One], limit: int | None) -> Sequence[One]:
    """`limit` of the samples, spread evenly over the folds; all where it is None."""
    if limit is None:
        return samples
    if limit < 1:
        raise UsageError(f"--limit is {limit}, expected 1 or more patches")
    return [samples[position] for position in spread([one.fold for one in samples], limit)]


def spread(folds: Sequence[int], limit: int) -> list[int]:
    """Positions of `limit` samples that come from all folds alike: the first of each, then the second of each, ..."""
    seen: Counter[int] = Counter()
    ranks = []
    for position, fold in enumerate(folds):
        ranks.append((seen[fold], position))
        seen[fold] += 1
    return sorted(position for _, position in sorted(ranks)[:limit])


def keep_whole(samples: Sequence[One], findings: Findings, on_error: OnError, root: Path) -> list[One]:
    """The samples without a problem; a DataError where there is one and `on_error` is "stop", or where none is left."""
    findings.refuse(on_error)
    broken = findings.patches
    kept = [one for one in samples if one.id not in broken]
    if not kept:
        raise DataError(*findings.lines, f"{root}: no patch is left to prepare")
    for id, message in broken.items():
        findings.note(f"patch {id} is skipped: {message}")
    return kept


def choose_modalities(
    found: Sequence[str], wanted: Sequence[str] | None, known: Sequence[str], title: str, root: Path
) -> tuple[str, ...]:
    """The modalities to prepare: those of `found` that are `wanted`, in the order of `found`; all when None."""
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"unknown modality {name!r}; {title} has {', '.join(known)}")
        if name not in found:
            raise DataError(f"{root}: no files of {name}; there are {', '.join(found) or 'none'}")
    return tuple(name for name in found if wanted is None or name in wanted)


def findings_of(look: Callable[[], Findings]) -> Findings:
    """What `look` finds; where it raises, the lines of its error are problems of the whole copy."""
    try:
        return look()
    except DataError as error:
        findings = Findings()
        for line in error.lines:
            findings.problem(line, line)
        return findings
