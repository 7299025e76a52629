"""The rows of a map that are finished, kept so that a killed run loses at most one strip.

    OUT.tif.partial/classes.raw, confidence.raw   (height, width) uint8, each byte XOR 255
    OUT.tif.partial/progress.json                 rows done, and what the map is made of, see `eokit.mapping.ledger`

Rows are written and flushed before they are counted as done, so what progress.json says is true whenever the run stops.
The XOR makes the holes of a sparse file (zeros) read as 255, which is nodata.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from eokit.files import writing
from eokit.mapping.ledger import Ledger
from eokit.viz.map import UNSEEN

LAYERS = ("classes", "confidence")


class PartialMap:
    """The growing map beside `out`; `rows_done` counts finished rows from the top."""

    def __init__(
        self, out: Path, shape: tuple[int, int], made_of: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self._ledger = Ledger(out, shape[0], made_of, resume=resume, overwrite=overwrite)
        self.folder, self.shape = self._ledger.folder, shape
        with writing(self.folder, hint="add --resume"):
            for layer in LAYERS:
                with self._file(layer).open("ab") as file:
                    file.truncate(shape[0] * shape[1])
        self._ledger.save()

    @property
    def rows_done(self) -> int:
        """Finished rows from the top."""
        return self._ledger.done

    def write(self, top: int, classes: np.ndarray, confidence: np.ndarray) -> int:
        """Keep finished rows (h, W) from row `top` on, but for those done already; returns the seen pixels kept."""
        skip = max(0, self.rows_done - top)
        if skip >= len(classes):
            return 0
        with writing(self.folder, hint="add --resume"):
            for layer, rows in zip(LAYERS, (classes, confidence), strict=True):
                self._write_rows(layer, top + skip, rows[skip:])
        self._ledger.done = top + len(classes)
        self._ledger.save()
        return int((classes[skip:] != UNSEEN).sum())

    def rows(self, layer: str, start: int, stop: int) -> np.ndarray:
        """(stop - start, width) uint8 of a layer."""
        height, width = self.shape
        stop = min(stop, height)
        with self._file(layer).open("rb") as file:
            file.seek(start * width)
            flat = np.frombuffer(file.read((stop - start) * width), np.uint8)
        return flat.reshape(stop - start, width) ^ 255

    def remove(self) -> None:
        """Forget the partial map, when the whole one is in place."""
        self._ledger.remove()

    def _write_rows(self, layer: str, top: int, rows: np.ndarray) -> None:
        if (rows == UNSEEN).all():
            return  # a hole already reads so
        with self._file(layer).open("r+b") as file:
            file.seek(top * self.shape[1])
            file.write((rows ^ 255).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _file(self, layer: str) -> Path:
        return self.folder / f"{layer}.raw"
