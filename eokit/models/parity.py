"""Recorded inputs and outputs of official models, and how far eokit's are from them; `eokit models parity` prints it.

A folder of parity holds index.json, one entry a case, and the cases as .npz. No weights are recorded: both sides fill
every tensor by `stand_in`, which depends on key and shape alone.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.errors import DataError

TOLERANCE = 2e-5
"""Largest difference, in units of the largest recorded value, that float32 on another order of sums explains."""
GAIN_SPREAD, TOKEN_SPREAD = 0.1, 0.3
TOKENS = ("lookup_table", "token", "q_learned", "pos_embed")


@dataclass(frozen=True)
class Outcome:
    """One case: its file, what it is in words, and the largest relative difference."""

    file: str
    about: str
    error: float


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


def read_cases(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Every entry of index.json with the arrays of its file; DataError where one is missing or damaged."""
    index = folder / "index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{index}: cannot be read ({error}); give a folder of recorded cases") from None
    for entry in entries:
        file = folder / entry["file"]
        try:
            with np.load(file, allow_pickle=False) as arrays:
                yield entry, dict(arrays)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read ({error}); copy it again") from None


def compare(
    folder: Path, run: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], tuple[str, Tensor, np.ndarray]]
) -> list[Outcome]:
    """`run(entry, arrays)` gives a case in words, eokit's output and the recorded one."""
    outcomes = []
    for entry, arrays in read_cases(folder):
        about, ours, recorded = run(entry, arrays)
        outcomes.append(Outcome(entry["file"], about, relative_error(ours, recorded)))
    return outcomes


def relative_error(ours: Tensor, recorded: np.ndarray) -> float:
    """Largest absolute difference over the largest recorded value; infinite for another shape."""
    if tuple(ours.shape) != recorded.shape:
        return math.inf
    exact = torch.from_numpy(recorded.astype(np.float64))
    return float((ours.double() - exact).abs().max() / exact.abs().max())
