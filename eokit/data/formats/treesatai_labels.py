"""The labels and the splits of TreeSatAI: which genera a patch holds, and whether it trains, validates or tests.

Called by `treesatai.py`. A label is a list of (genus, share of the area); a genus counts from a share above 7 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eokit.data.formats.base import Findings
from eokit.data.formats.tables import read_table
from eokit.errors import DataError

GENERA = (
    "Abies",
    "Acer",
    "Alnus",
    "Betula",
    "Cleared",
    "Fagus",
    "Fraxinus",
    "Larix",
    "Picea",
    "Pinus",
    "Populus",
    "Prunus",
    "Pseudotsuga",
    "Quercus",
    "Tilia",
)
"""The 15 classes, in the order of AnySat: cleared land and 14 genera."""

THRESHOLD = 0.07
"""Share of the area that a genus must exceed, in the benchmark of the data set as in AnySat."""

LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
SPLIT = "split/{}_filenames.lst"
FOLDS = {"train": 1, "val": 2, "test": 3}


class Listed(NamedTuple):
    """A patch as lists and labels know it. label: (15,) uint8 of 0 and 1."""

    id: str
    fold: int
    label: np.ndarray


def read_listed(root: Path, findings: Findings) -> list[Listed]:
    """Every patch of the three lists that has a genus above the threshold; what is wrong goes to `findings`."""
    folds = _read_folds(root, findings)
    table = read_table(root / LABELS, '{"<name>.tif": [["Fagus", 0.8], ...], ...}')
    listed, empty = [], []
    for id, fold in folds.items():
        label = np.zeros(len(GENERA), np.uint8)
        try:
            label = _label(table[f"{id}.tif"])
        except KeyError:
            message = (
                f"{root / LABELS}: no label of {id}.tif, which is in {SPLIT.format('*')}; take both from one release"
            )
            findings.problem("no label", message, id)
        except ValueError as error:
            findings.problem("label", f"{root / LABELS}: {id}.tif: {error}", id)
        else:
            if not label.any():
                empty.append(id)
                continue
        listed.append(Listed(id, fold, label))
    if empty:
        findings.note(f"{len(empty)} patches (first: {empty[0]}) have no genus above {THRESHOLD:.0%}: left out")
    return listed


def _read_folds(root: Path, findings: Findings) -> dict[str, int]:
    folds: dict[str, int] = {}
    for name, fold in FOLDS.items():
        path = root / SPLIT.format(name)
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}); copy or download it again") from None
        ids = [line.strip().removesuffix(".tif") for line in lines if line.strip()]
        twice = [id for id in ids if folds.setdefault(id, fold) != fold]
        if twice:
            findings.note(
                f"{SPLIT.format(name)}: {len(twice)} of its patches (first: {twice[0]}) are also in an earlier list and"
                " stay in that one"
            )
    if not folds:
        raise DataError(f"{root / SPLIT.format('*')}: the lists name no patch")
    return folds


def _label(shares: Any) -> np.ndarray:
    """(15,) uint8 from [["Fagus", 0.8], ...]; else a ValueError."""
    label = np.zeros(len(GENERA), np.uint8)
    try:
        rows = [(genus, float(share)) for genus, share in shares]
    except (TypeError, ValueError):
        raise ValueError(f'{shares!r:.60}, expected [["Fagus", 0.8], ...]') from None
    for genus, share in rows:
        if genus not in GENERA:
            raise ValueError(f"unknown genus {genus!r}; known are {', '.join(GENERA)}")
        if not 0 <= share <= 1:
            raise ValueError(f"{genus} has the share {share}, expected 0 to 1")
        label[GENERA.index(genus)] |= share > THRESHOLD
    return label
