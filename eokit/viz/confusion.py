"""A confusion matrix as a picture: rows are the truth, each row's shares add up to 100 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eokit.viz.style import new_figure, save_figure, stamp_synthetic


def draw_confusion(
    matrix: np.ndarray, classes: Sequence[str], ignore: int | None, path: Path, *, title: str, synthetic: bool = False
) -> Path:
    """Draw (K, K) counts to the PNG at `path`, void and classes without any count left out; returns `path`."""
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
    axes.set_yticks(range(len(used)), [f"{n}  ({_short(s)})" for n, s in zip(names, support, strict=True)], fontsize=8)
    axes.set(xlabel="predicted", ylabel="truth (how many)", title=title)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 1:
            shade = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=shade)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the truth, %")
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e3 else f"{count:.0f}"
