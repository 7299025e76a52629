"""How features are kept: float32 as they are, float16, or int8 with one step a channel; and what that costs.

Features that the encoder did not see are NaN in floats and -128 in int8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Dtype = Literal["float32", "float16", "int8"]
UNSEEN_INT8, LARGEST_INT8 = -128, 127
LARGEST_HALF = 65504.0
"""The largest number of float16."""


@dataclass(frozen=True)
class Coding:
    """scale: (D,) float32 for int8: value = stored x scale, by channel; None for floats."""

    dtype: Dtype
    scale: np.ndarray | None = None

    @property
    def unseen(self) -> float:
        """The stored value of what was not seen."""
        return UNSEEN_INT8 if self.dtype == "int8" else float("nan")

    def encode(self, values: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """values: (B, D, ...) float32, seen: (B, ...) bool -> (B, D, ...) as stored."""
        if self.dtype == "int8":
            steps = np.rint(values / _by_channel(self.scale, values.ndim))
            stored = np.clip(np.nan_to_num(steps), -LARGEST_INT8, LARGEST_INT8).astype(np.int8)
        elif self.dtype == "float16":
            stored = np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
        else:
            stored = values.astype(np.float32)
        return np.where(seen[:, None], stored, np.array(self.unseen, stored.dtype))

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """(B, D, ...) as stored -> float32, NaN where not seen."""
        if self.dtype != "int8":
            return stored.astype(np.float32)
        values = stored.astype(np.float32) * _by_channel(self.scale, stored.ndim)
        return np.where(stored == UNSEEN_INT8, np.float32(np.nan), values)


def scale_of(largest: np.ndarray) -> np.ndarray:
    """(D,) steps with which `largest` (D,), the largest absolute value of each channel, just fits into int8."""
    return np.where(largest > 0, largest / LARGEST_INT8, 1.0).astype(np.float32)


@dataclass
class Loss:
    """Sums over all seen numbers that were stored, for the error of storing them."""

    count: int = 0
    clipped: int = 0
    squares: float = 0.0
    error_squares: float = 0.0

    def add(self, coding: Coding, values: np.ndarray, stored: np.ndarray, seen: np.ndarray) -> None:
        """Count values (B, D, ...) float32 that were kept as `stored`, where seen (B, ...)."""
        for row, shown in enumerate(seen):  # one sample at a time: maps of pixels are large in float64
            one = slice(row, row + 1)
            chosen = np.broadcast_to(shown, values.shape[1:])
            exact = values[row][chosen].astype(np.float64)
            lost = exact - coding.decode(stored[one])[0][chosen]
            self.count += exact.size
            self.squares += float(exact @ exact)
            self.error_squares += float(lost @ lost)
            self.clipped += int(self._clipped(coding, values[one])[0][chosen].sum())

    @property
    def error(self) -> float:
        """Root of the mean squared error over that of the values."""
        return (self.error_squares / self.squares) ** 0.5 if self.squares else 0.0

    @property
    def clipped_share(self) -> float:
        """Share of the numbers that were too large to be kept."""
        return self.clipped / self.count if self.count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The sums, for a record from which `Loss(**sums)` goes on."""
        return asdict(self)

    @staticmethod
    def _clipped(coding: Coding, values: np.ndarray) -> np.ndarray:
        if coding.dtype == "int8":
            return np.abs(values) > (LARGEST_INT8 + 0.5) * _by_channel(coding.scale, values.ndim)
        return np.abs(values) > (LARGEST_HALF if coding.dtype == "float16" else np.inf)


def _by_channel(scale: np.ndarray | None, ndim: int) -> np.ndarray:
    """(D,) -> (D, 1, ...) against (B, D, ...)."""
    assert scale is not None
    return scale.reshape(-1, *[1] * (ndim - 2))
