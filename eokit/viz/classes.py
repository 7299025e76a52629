"""F1 and average precision of each class as a picture, for samples that have several classes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eokit.viz.style import new_figure, save_figure, stamp_synthetic

NO_TRUTH = "no truth"
"""Stands where the count of the truth would be 0: such a class has no score, which is not 0 %."""


def draw_classes(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, synthetic: bool = False) -> Path:
    """A bar of F1 and a mark of average precision for each class, most frequent first, as a PNG at `path`.

    rows: name, f1, ap and support of each class.
    """
    rows = sorted(rows, key=lambda row: -row["support"])
    figure = new_figure(6.5, 1.9 + 0.3 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        if not row["support"]:
            continue
        f1 = 100 * row["f1"]
        axes.barh(place, f1, color="C0", height=0.7, label="F1" if place == 0 else None)
        axes.text(1, place, f"{f1:.0f}", va="center", fontsize=8, color="white" if f1 > 8 else "black")
        axes.plot(100 * row["ap"], place, "D", color="black", markersize=4, label="AP" if place == 0 else None)
    names = [f"{row['name']}  ({row['support'] or NO_TRUTH})" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set(xlim=(0, 101), ylim=(len(rows) - 0.4, -0.6), xlabel="%", ylabel="class (how many samples)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)
