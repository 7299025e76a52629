"""A store at a glance, as one picture: a patch on its clearest dates, its labels, the seasons of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eokit.data.spec import LabelSpec
from eokit.data.store import Store
from eokit.viz.colors import class_colors
from eokit.viz.pictures import Pictures, draw_row, pictures_of
from eokit.viz.series import Series, class_series, find_bands
from eokit.viz.style import bare, new_figure, save_figure, stamp_synthetic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

DATES = 5
"""Images shown of a patch."""

SAMPLES = 16
"""Patches behind the curves of the classes, spread over the store."""

COLUMNS = DATES + 1
PANEL = 2.25
"""Panels in a row, and inches of one."""

LEAST_FREE = 2
"""Cells that must be left beside the curves for all of them to be drawn on one axis there."""

ENOUGH = 36
"""Pixels from which on a patch is shown as well as any other."""

SEASON = 92
"""Days by which the middles of two series may differ for both to be of one season."""

LEGEND = 13
"""Classes named beside the label map; the curves name all."""


def draw_quicklook(store: Store, path: Path, sample: int | None = None) -> Path:
    """Draw the PNG at `path`; returns `path`. sample: the patch shown, by default the one with the most classes."""
    modality, label = _best_modality(store), _class_label(store)
    sample = _richest_sample(store, label) if sample is None else sample
    series = _series(store, modality, label, sample)
    shown = [] if series is None else _shown_classes(store.labels[series.label], series)
    others = _others(store, modality, sample)
    heights = [1.25 * PANEL] * (1 + bool(others)) + [0.3 + 0.8 * PANEL * -(-len(shown) // COLUMNS)] * bool(shown)
    figure = new_figure(COLUMNS * PANEL, sum(heights) + 0.5)
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _draw_patch(parts[0], store, modality, label, sample)
    if others:
        _draw_others(parts[1], others)
    if series is not None and shown:
        _draw_curves(parts[-1], series, shown, store.labels[series.label].classes or ())
    figure.suptitle(str(store.attributes["title"]), fontsize=10, weight="bold")
    if store.synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


def _draw_patch(part: SubFigure, store: Store, modality: str, label: str | None, sample: int) -> None:
    """A finer image of one patch where there is one, its clearest dates, and its labels at the right."""
    fine = _finest_image(store, modality)
    image = [] if fine is None else [pictures_of(store, fine, sample, 1)]
    sets = [one for one in (*image, pictures_of(store, modality, sample, DATES - len(image))) if one is not None]
    row = draw_row(part, COLUMNS, sets)
    if label is not None:
        draw = _draw_labels if store.labels[label].is_map else _draw_names
        draw(row[DATES], store, label, sample)
    part.suptitle(
        f"patch {store.ids[sample]} (fold {store.folds[sample]}): {modality} on its clearest dates", fontsize=9
    )


def _others(store: Store, modality: str, sample: int) -> list[Pictures]:
    """The modalities that the first row does not show, on as many dates each as one more row has room for.

    A modality of one pixel is no image.
    """
    shown = (modality, _finest_image(store, modality))
    names = [name for name, spec in store.modalities.items() if name not in shown and min(spec.shape[1:]) > 1]
    each = max(1, COLUMNS // max(len(names), 1))
    found = [pictures_of(store, name, sample, each) for name in names[:COLUMNS]]
    return [one for one in found if one is not None]


def _draw_others(part: SubFigure, others: Sequence[Pictures]) -> None:
    draw_row(part, COLUMNS, others)
    part.suptitle("the same patch in the other modalities", fontsize=9)


def _draw_curves(part: SubFigure, series: Series, shown: Sequence[int], names: Sequence[str]) -> None:
    """A panel a class; the cells that are left in the last row hold all medians on one axis."""
    rows, free = -(-len(shown) // COLUMNS), -len(shown) % COLUMNS
    grid = part.add_gridspec(rows, COLUMNS)
    for cell, number in enumerate(shown):
        axes = part.add_subplot(grid[cell // COLUMNS, cell % COLUMNS])
        _draw_curve(axes, series, number, names)
        if cell % COLUMNS == 0:
            axes.set_ylabel(series.quantity, fontsize=7)
    if free >= LEAST_FREE and len(shown) > 1:
        _draw_medians(part.add_subplot(grid[-1, COLUMNS - free :]), series, shown, names)
    part.suptitle(f"classes in the season of this patch: median and quartiles of {series.note}", fontsize=9)


def _best_modality(store: Store) -> str:
    """The modality that says most to the eye: infrared and red, a series, enough pixels, many dates."""

    def worth(name: str) -> tuple[bool, bool, int, int]:
        spec, dates = store.modalities[name], max(len(store.days(name, sample)) for sample in range(len(store)))
        pair = find_bands(spec, ("red", "infrared"))
        return pair is not None, dates > 1, min(spec.shape[1] * spec.shape[2], ENOUGH), dates

    return max(store.modalities, key=worth)


def _finest_image(store: Store, modality: str) -> str | None:
    """The true-colour modality with the smallest pixels, smaller than those of `modality`; None where there is none."""
    colour = [name for name, spec in store.modalities.items() if find_bands(spec, ("red", "green", "blue"))]
    finest = min(colour, key=lambda name: store.modalities[name].gsd, default=None)
    return finest if finest and store.modalities[finest].gsd < store.modalities[modality].gsd else None


def _class_label(store: Store) -> str | None:
    """The first label whose values are classes, a map before a label of whole samples."""
    named = [name for name, spec in store.labels.items() if spec.classes]
    return min(named, key=lambda name: not store.labels[name].is_map, default=None)


def _richest_sample(store: Store, label: str | None) -> int:
    if label is None:
        return 0
    read = np.sum if store.labels[label].multilabel else lambda layer: len(np.unique(layer))
    counts = [read(store.read_label(label, sample)) for sample in _spread(store)]
    return int(_spread(store)[int(np.argmax(counts))])


def _spread(store: Store) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, len(store) - 1, min(SAMPLES, len(store))).astype(int))


def _series(store: Store, modality: str, label: str | None, sample: int) -> Series | None:
    """Curves of the classes over patches of the season of `sample`.

    None without labels, with one date only, or where the label has another grid.
    """
    if label is None or store.labels[label].shape != store.modalities[modality].shape[1:]:
        return None
    samples = _same_season(store, modality, sample)
    if not samples or max(len(store.days(modality, one)) for one in samples) < 2:
        return None
    return class_series(store, modality, label, samples)


def _same_season(store: Store, modality: str, sample: int) -> list[int]:
    """`sample` and those of the patches spread over the store whose series have about the same middle."""

    def middle(one: int) -> float:
        days = store.days(modality, one)
        return (int(days[0]) + int(days[-1])) / 2

    dated = [int(one) for one in sorted({*_spread(store).tolist(), sample}) if len(store.days(modality, int(one)))]
    if sample not in dated:
        return []
    return [one for one in dated if abs(middle(one) - middle(sample)) <= SEASON]


def _shown_classes(spec: LabelSpec, series: Series) -> list[int]:
    """Classes that get a curve: those with pixels, void left out, in the order of the legend."""
    return [k for k in np.flatnonzero(series.pixels).tolist() if k != spec.ignore]


def _draw_labels(axes: Axes, store: Store, label: str, sample: int) -> None:
    """The label map with a legend of the classes in it, the most frequent first."""
    from matplotlib.patches import Patch

    names = store.labels[label].classes or ()
    colours = np.array(class_colors(names), dtype=np.uint8)
    classes = store.read_label(label, sample)
    bare(axes, f"labels: {label}").imshow(colours[np.minimum(classes, len(names) - 1)])
    counts = np.bincount(classes[classes < len(names)], minlength=len(names))
    order = [k for k in np.argsort(-counts, kind="stable").tolist() if counts[k]]
    handles = [
        Patch(
            facecolor=colours[k] / 255,
            edgecolor="0.4",
            linewidth=0.4,
            label=f"{names[k]} {counts[k] / classes.size:.1%}",
        )
        for k in order[:LEGEND]
    ]
    if len(order) > LEGEND:
        handles.append(Patch(facecolor="none", label=f"and {len(order) - LEGEND} more"))
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=6, frameon=False, borderaxespad=0
    )


def _draw_names(axes: Axes, store: Store, label: str, sample: int) -> None:
    """The names of the classes of a whole sample."""
    names = store.labels[label].classes or ()
    value = store.read_label(label, sample)
    found = np.flatnonzero(value) if store.labels[label].multilabel else [int(value)]
    lines = [names[k] for k in found]
    axes.set_title(f"label: {label}", fontsize=8)
    axes.text(0.02, 0.97, "\n".join(lines) or "none", va="top", fontsize=8, transform=axes.transAxes)


def _draw_curve(axes: Axes, series: Series, number: int, names: Sequence[str]) -> None:
    """One class: the median through the season, and the quartiles around it."""
    low, middle, high = series.values[:, number]
    seen = ~np.isnan(middle)
    colour = _readable(class_colors(names)[number])
    axes.fill_between(series.days[seen], low[seen], high[seen], color=colour, alpha=0.3, linewidth=0)
    axes.plot(series.days[seen], middle[seen], color=colour, linewidth=1.4)
    axes.set_title(f"{names[number]} ({series.pixels[number]:,} px)", fontsize=7.5)
    _scale_season(axes, series)


def _draw_medians(axes: Axes, series: Series, shown: Sequence[int], names: Sequence[str]) -> None:
    """The medians of all classes on one axis."""
    for number in shown:
        middle = series.values[1, number]
        seen = ~np.isnan(middle)
        colour = _readable(class_colors(names)[number])
        axes.plot(series.days[seen], middle[seen], color=colour, linewidth=1.2, label=names[number])
    axes.set_title("all classes, medians", fontsize=7.5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=6, frameon=False, borderaxespad=0)
    _scale_season(axes, series)


def _scale_season(axes: Axes, series: Series) -> None:
    """The same values and days on every axis, months below."""
    from matplotlib.dates import ConciseDateFormatter, MonthLocator

    axes.set_ylim(*series.limits)
    axes.set_xlim(series.days[0], series.days[-1])
    locator = MonthLocator(bymonth=range(1, 13, 3))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.tick_params(labelsize=6, length=2)
    axes.grid(alpha=0.25, linewidth=0.5)


def _readable(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """The colour of a class as a line on white: pale ones darker."""
    red, green, blue = (part / 255 for part in colour)
    light = 0.3 * red + 0.59 * green + 0.11 * blue
    factor = min(1.0, 0.68 / max(light, 1e-6))
    return red * factor, green * factor, blue * factor
