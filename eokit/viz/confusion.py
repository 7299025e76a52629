"""A confusion matrix as a picture: rows are the truth, each row's shares add up to 100 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eokit.viz.style import new_figure, save_figure, stamp_synthetic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_TRUTH = "no truth"
"""Stands where the count of the truth would be 0."""


def draw_confusion(
    matrix: np.ndarray, classes: Sequence[str], ignore: int | None, path: Path, *, title: str, synthetic: bool = False
) -> Path:
    """Draw (K, K) counts to the PNG at `path`, void and classes without any count left out; returns `path`.

    A class that was predicted but has no truth has a hatched row: it has no shares, which is not 0 %.
    """
    matrix = np.asarray(matrix)
    used = [k for k in range(len(classes)) if k != ignore and matrix[k].sum() + matrix[:, k].sum() > 0]
    kept = matrix[np.ix_(used, used)]
    support = kept.sum(1)
    shares = 100 * np.divide(kept, support[:, None], out=np.zeros(kept.shape), where=support[:, None] > 0)
    edge = 2.6 + 0.42 * len(used)
    figure = new_figure(edge + 2.2, edge + 0.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    names = [classes[k] for k in used]
    axes.set_xticks(range(len(used)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(used)), [_row_name(n, s) for n, s in zip(names, support, strict=True)], fontsize=8)
    axes.set(xlabel="predicted", ylabel="truth (how many)", title=title)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 1:
            shade = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=shade)
    _hatch_rows(axes, np.flatnonzero(support == 0).tolist(), len(used))
    _outline_diagonal(axes, len(used))
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the truth, %")
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


def _row_name(name: str, support: int) -> str:
    return f"{name}  ({_short(support)})" if support else f"{name}  ({NO_TRUTH})"


def _hatch_rows(axes: Axes, rows: Sequence[int], width: int) -> None:
    from matplotlib.patches import Rectangle

    for row in rows:
        axes.add_patch(Rectangle((-0.5, row - 0.5), width, 1, facecolor="0.92", edgecolor="0.65", hatch="////", lw=0))


def _outline_diagonal(axes: Axes, size: int) -> None:
    """A frame around every cell where truth and prediction agree."""
    from matplotlib.patches import Rectangle

    for at in range(size):
        axes.add_patch(Rectangle((at - 0.5, at - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.0))


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else f"{count:.0f}"
