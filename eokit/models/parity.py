"""Recorded inputs and outputs of official models, and how far eokit's are from them; `eokit models parity` prints it.

A folder of parity holds index.json, one entry a case, and the cases as .npz. No weights are recorded: both sides fill
every tensor by `stand_in`, which depends on key and shape alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from eokit.errors import DataError, UsageError
from eokit.progress import Progress

TOLERANCE = 2e-5
"""Largest difference, in units of the largest recorded value, that float32 on another order of sums explains."""
GAIN_SPREAD, TOKEN_SPREAD = 0.1, 0.3
TOKENS = ("lookup_table", "token", "q_learned", "pos_embed")


RunCase = Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], tuple[str, Tensor, np.ndarray]]
"""(an entry of the index, its arrays) -> the case in words, eokit's output, the recorded output."""


@dataclass(frozen=True)
class Outcome:
    """One case: its file, what it is in words, and the largest relative difference."""

    file: str
    about: str
    error: float

    @property
    def passed(self) -> bool:
        """Whether float32 explains the difference; never for a value that is no number."""
        return self.error <= TOLERANCE


def stand_in(key: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor that stands for the published weight `key`: normal numbers from MT19937, seeded by the key's CRC-32.

    Gains are 1 + 0.1 n, other vectors and scalars 0.1 n, tokens and tables 0.3 n, the rest n / sqrt(inputs).
    """
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    noise = np.asarray(noise, np.float32)
    if len(shape) <= 1:
        filled = GAIN_SPREAD * noise + (1 if key.endswith("weight") else 0)
    elif any(name in key for name in TOKENS):
        filled = TOKEN_SPREAD * noise
    else:
        filled = noise / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(filled, np.float32))


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Every entry of index.json; DataError where there is none, or one does not name its file."""
    index = folder / "index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{index}: cannot be read ({error}); give a folder of recorded cases") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{index}: holds no case, expected a list of them; give a folder of recorded cases")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise DataError(f"{index}: {json.dumps(entry)[:60]} names no file, expected a case with its file")
    return entries


def read_case(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a case; DataError where they are missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{file}: cannot be read ({error}); copy it again") from None


def compare(folder: Path, run: RunCase, quiet: bool = True) -> list[Outcome]:
    """How far `run` is from what the cases of `folder` recorded, with progress on stderr unless `quiet`."""
    outcomes = []
    entries = read_index(folder)
    with Progress("parity", len(entries), quiet=quiet) as bar:
        for entry in entries:
            file = folder / entry["file"]
            try:
                about, ours, recorded = run(entry, read_case(file))
            except UsageError as error:
                raise DataError(f"{file}: is no case of this model ({error})") from None
            except (KeyError, TypeError) as error:
                raise DataError(f"{file}: is no case of this model ({type(error).__name__} {error})") from None
            outcomes.append(Outcome(entry["file"], about, relative_error(ours, recorded)))
            bar.advance()
    return outcomes


def relative_error(ours: Tensor, recorded: np.ndarray) -> float:
    """Largest absolute difference over the largest recorded value; infinite for another shape."""
    if tuple(ours.shape) != recorded.shape:
        return math.inf
    exact = torch.from_numpy(recorded.astype(np.float64))
    return float((ours.double() - exact).abs().max() / exact.abs().max())
