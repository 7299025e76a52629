"""Opens a store and reads samples from it; imports neither torch nor zarr nor geopandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eokit.data.spec import LabelSpec, ModalitySpec

if TYPE_CHECKING:
    from eokit.data.sample import Where

Window = tuple[int, int, int, int]
"""(y0, y1, x0, x1) in pixels of the modality or label read."""


class Store:
    """A store on disk: `ids`, `folds`, and readers of pixels, days and labels by sample number."""

    path: Path
    attributes: dict[str, Any]
    synthetic: bool
    dataset: str
    modalities: dict[str, ModalitySpec]
    labels: dict[str, LabelSpec]
    ids: list[str]
    folds: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Store:
        """The store at `path`; DataError when it is missing, damaged or of a newer schema."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.ids)

    def days(self, modality: str, sample: int) -> np.ndarray:
        """(T,) int32, days since 1970-01-01."""
        raise NotImplementedError

    def read(
        self, modality: str, sample: int, dates: Sequence[int] | np.ndarray | None = None, window: Window | None = None
    ) -> np.ndarray:
        """(t, C, h, w) in the stored dtype: all dates or the chosen ones, the whole patch or a window of it."""
        raise NotImplementedError

    def read_label(self, name: str, sample: int, window: Window | None = None) -> np.ndarray:
        """(h, w) of one label layer."""
        raise NotImplementedError

    def where(self, sample: int) -> Where:
        """Where the sample lies."""
        raise NotImplementedError

    def select(self, folds: Sequence[int] | None = None, limit: int | None = None) -> np.ndarray:
        """Sample numbers of `folds`; DataError naming the folds there are when none is left."""
        raise NotImplementedError

    def class_counts(self, label: str = "semantic", folds: Sequence[int] | None = None) -> np.ndarray:
        """(K,) int64: pixels per class in `folds`."""
        raise NotImplementedError
