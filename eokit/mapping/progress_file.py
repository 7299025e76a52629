"""The rows of a map that are finished, kept so that a killed run loses at most one strip.

    OUT.tif.partial/classes.raw, confidence.raw   (height, width) uint8, each byte XOR 255
    OUT.tif.partial/progress.json                 rows done, and what the map is made of

Rows are written and flushed before they are counted as done, so what progress.json says is true whenever the run stops.
The XOR makes the holes of a sparse file (zeros) read as 255, which is nodata.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from eokit.errors import UsageError
from eokit.files import writing
from eokit.viz.map import UNSEEN

LAYERS = ("classes", "confidence")
STATE = "progress.json"


class PartialMap:
    """The growing map beside `out`; `rows_done` counts finished rows from the top."""

    def __init__(
        self, out: Path, shape: tuple[int, int], made_of: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self.folder = partial_folder(out)
        self.shape, self.made_of = shape, json.loads(json.dumps(made_of))
        self.rows_done = 0
        if self.folder.exists():
            self._take_over(out, resume, overwrite)
        with writing(self.folder, hint="add --resume"):
            self.folder.mkdir(parents=True, exist_ok=True)
            for layer in LAYERS:
                with self._file(layer).open("ab") as file:
                    file.truncate(shape[0] * shape[1])
            self._save_state()

    def write(self, top: int, classes: np.ndarray, confidence: np.ndarray) -> int:
        """Keep finished rows (h, W) from row `top` on, but for those done already; returns the seen pixels kept."""
        skip = max(0, self.rows_done - top)
        if skip >= len(classes):
            return 0
        with writing(self.folder, hint="add --resume"):
            for layer, rows in zip(LAYERS, (classes, confidence), strict=True):
                self._write_rows(layer, top + skip, rows[skip:])
            self.rows_done = top + len(classes)
            self._save_state()
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
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _save_state(self) -> None:
        aside = self.folder / f"{STATE}.tmp"
        aside.write_text(json.dumps({"rows_done": self.rows_done, "made_of": self.made_of}), encoding="utf-8")
        aside.replace(self.folder / STATE)

    def _take_over(self, out: Path, resume: bool, overwrite: bool) -> None:
        """Continue what is there, or clear it away, or say that the two do not go together."""
        state = self._read_state()
        if overwrite or state is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif not resume:
            share = state["rows_done"] / max(self.shape[0], 1)
            raise UsageError(
                f"{self.folder}: an unfinished map ({share:.0%}) is here; add --resume to continue it or --overwrite to"
                " start again"
            )
        elif difference := first_difference(state["made_of"], self.made_of):
            raise UsageError(f"{out}: cannot be continued, {difference}; add --overwrite to start again")
        else:
            self.rows_done = int(state["rows_done"])

    def _read_state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


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
