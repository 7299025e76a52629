"""Writes a data set into one store: shards in parallel processes, resumable, renamed into place when whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eokit.data.spec import Entry, LabelSpec, ModalitySpec, Source, StoreSpec

__all__ = ["Entry", "LabelSpec", "ModalitySpec", "Source", "StoreSpec", "WriteOptions", "WriteResult", "write_store"]


@dataclass(frozen=True)
class WriteOptions:
    """How `write_store` works; `layout` says how pixels are chunked, see `eokit.data.layout`."""

    layout: Literal["default", "pixel", "tile"] = "default"
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    on_error: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class WriteResult:
    """What was written. `input_bytes`: read from the source; `stored_bytes`: on disk; `skipped`: id -> reason."""

    path: Path
    samples: int
    input_bytes: int
    stored_bytes: int
    seconds: float
    skipped: dict[str, str]


def write_store(source: Source, dest: Path, options: WriteOptions) -> WriteResult:
    """Write all samples of `source` to a new store at `dest`."""
    raise NotImplementedError
