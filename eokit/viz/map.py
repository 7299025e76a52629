"""A map as a picture: true colour, labels, classes with their shares, confidence; one row of images per view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eokit.viz.style import bare, new_figure, save_figure, stamp_synthetic

UNSEEN = 255
"""Value of classes and of confidence where no date showed the pixel, or the model did not see its patch on any."""
UNSEEN_COLOUR = (140, 140, 140)
"""Mid grey, apart from the light grey of background and the white of void."""


@dataclass(frozen=True)
class View:
    """One part of a map. classes, confidence: (h, w) uint8, 255 = not seen. rgb: (h, w, 3) uint8 or None.

    truth: (h, w) uint8 class ids of the labels, 255 = none, where there are labels.
    metres: height and width of a pixel of these arrays on the ground.
    """

    title: str
    classes: np.ndarray
    confidence: np.ndarray
    metres: tuple[float, float]
    rgb: np.ndarray | None = None
    rgb_title: str = "true colour"
    truth: np.ndarray | None = None


@dataclass(frozen=True)
class LegendEntry:
    """One class: its id, name, colour (0..255) and share of the seen area, 0..1; None: in the labels only."""

    number: int
    name: str
    colour: tuple[int, int, int]
    share: float | None


@dataclass(frozen=True)
class Legend:
    """The classes of a picture, and a title that says what their shares are of."""

    title: str
    entries: Sequence[LegendEntry]


def draw_map(path: Path, views: Sequence[View], legend: Legend, title: str, synthetic: bool) -> Path:
    """Draw the PNG at `path`; returns `path`."""
    with_rgb = any(view.rgb is not None for view in views)
    with_truth = any(view.truth is not None for view in views)
    columns = 2 + with_rgb + with_truth
    width = 4.2 if len(views) == 1 else 2.6
    heights = [min(1.6, _aspect(view)) * width + 0.35 for view in views]
    figure = new_figure(columns * width + 3.4, max(sum(heights) + 0.5, 0.22 * len(legend.entries) + 1.2))
    grid = figure.subplots(len(views), columns, squeeze=False, height_ratios=heights)
    table = _colour_table(legend.entries)
    shown: Any = None
    for row, view in zip(grid, views, strict=True):
        if with_rgb:
            _draw_true_colour(row[0], view)
        if with_truth:
            _draw_classes(row[-3], view, view.truth, table, "labels")
        _draw_classes(row[-2], view, view.classes, table, "map")
        _draw_scale_bar(row[-2], view)
        shown = _draw_confidence(row[-1], view)
        row[0].set_title("\n".join(filter(None, (view.title, row[0].get_title()))), fontsize=8)
    figure.colorbar(shown, ax=grid[:, -1].tolist(), shrink=0.7, aspect=40, label="confidence, %")
    _draw_legend(figure, legend, any((view.classes == UNSEEN).any() for view in views))
    figure.suptitle(title, fontsize=10)
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


def _aspect(view: View) -> float:
    height, width = view.classes.shape
    return height * view.metres[0] / (width * view.metres[1])


def _draw_true_colour(axes: Any, view: View) -> None:
    bare(axes, view.rgb_title)
    if view.rgb is None:
        axes.axis("off")
        return
    axes.imshow(view.rgb, aspect=view.metres[0] / view.metres[1], interpolation="nearest")


def _colour_table(entries: Sequence[LegendEntry]) -> np.ndarray:
    """(256, 3) uint8 colours by class id."""
    table = np.full((256, 3), UNSEEN_COLOUR, np.uint8)
    for entry in entries:
        table[entry.number] = entry.colour
    return table


def _draw_classes(axes: Any, view: View, classes: np.ndarray | None, table: np.ndarray, title: str) -> None:
    bare(axes, title)
    if classes is None:
        axes.axis("off")
        return
    axes.imshow(table[classes], aspect=view.metres[0] / view.metres[1], interpolation="nearest")


def _draw_confidence(axes: Any, view: View) -> Any:
    masked = np.ma.masked_equal(view.confidence, UNSEEN)
    axes.set_facecolor(_fraction(UNSEEN_COLOUR))
    bare(axes, "confidence")
    aspect = view.metres[0] / view.metres[1]
    return axes.imshow(masked, cmap="viridis", vmin=0, vmax=100, aspect=aspect, interpolation="nearest")


def _draw_scale_bar(axes: Any, view: View) -> None:
    """A bar of a round length, about a fifth of the width, in the lower left corner."""
    height, width = view.classes.shape
    wanted = width * view.metres[1] / 5
    power = 10 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    left, right, low = 0.04 * width, 0.04 * width + length / view.metres[1], 0.95 * height
    for colour, thick in (("black", 4), ("white", 2)):
        axes.plot([left, right], [low, low], color=colour, linewidth=thick, solid_capstyle="butt")
    axes.text(
        left,
        low - 0.015 * height,
        label,
        fontsize=7,
        va="bottom",
        bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "lw": 0},
    )


def _draw_legend(figure: Any, legend: Legend, unseen: bool) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(
            facecolor=_fraction(entry.colour),
            edgecolor="0.4",
            label=f"{entry.name}  {_percent(entry.share)}",
        )
        for entry in legend.entries
    ]
    if unseen:
        patches.append(Patch(facecolor=_fraction(UNSEEN_COLOUR), edgecolor="0.4", label="not seen"))
    figure.legend(
        handles=patches,
        loc="outside right center",
        fontsize=8,
        frameon=False,
        title=legend.title,
        title_fontsize=8,
        alignment="left",
    )


def _fraction(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _percent(share: float | None) -> str:
    if share is None:
        return "(labels only)"
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"
