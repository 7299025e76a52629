"""The curves of a run: loss, learning rate and the figures to watch, from its events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eokit.errors import DataError
from eokit.training.events import read_events
from eokit.viz.style import new_figure, save_figure, stamp_synthetic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "feature_std": "feature std (0: collapsed)",
    "effective_rank": "effective rank (1: collapsed)",
    "target_std": "std of the teacher's tokens",
    "samples_s": "samples a second",
    "miou": "validation mIoU",
}
"""What is drawn if the run has it, in this order, and what is written above it."""

MARKED = 60
"""Points of a curve, at most, that are marked each."""


def draw_curves(run: Path, path: Path, *, title: str, synthetic: bool = False) -> Path:
    """Draw the events of the run folder `run` to the PNG at `path`; returns `path`."""
    curves = _curves(run)
    if not curves:
        raise DataError(f"{run}: no train event in events.jsonl; the run did not reach its first one")
    columns = _columns(len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(4.2 * columns, 2.7 * rows + 0.6)
    span = min(steps[0] for steps, _ in curves.values()), max(steps[-1] for steps, _ in curves.values())
    for number, (name, (steps, values)) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        # Not clipped: half of the first and the last point lies outside of the axes.
        marker = "o" if len(steps) <= MARKED else None
        axes.plot(steps, values, color="#2166ac", linewidth=1.4, marker=marker, markersize=3, clip_on=False)
        axes.set_title(TITLES[name], fontsize=10, loc="left")
        _scale_steps(axes, *span)
        _scale_values(axes, name, values)
    figure.suptitle(title, fontsize=12)
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


def _columns(count: int) -> int:
    """Three or four panels in a row, whichever leaves fewer cells empty; less where there are no more."""
    return min(count, min((3, 4), key=lambda columns: -count % columns))


def _scale_steps(axes: Axes, first: int, last: int) -> None:
    """The same whole steps below every panel, from the first to the last that has an event."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(first, last) if last > first else axes.set_xlim(first - 1, first + 1)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("step", fontsize=8)


def _scale_values(axes: Axes, name: str, values: np.ndarray) -> None:
    """From 0 up, or logarithmic where a loss or a gradient falls far; numbers without a common factor above."""
    if name in ("loss", "grad_norm") and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
        return
    axes.set_ylim(min(0.0, float(values.min())), 1.08 * max(float(values.max()), 1e-12))
    written = _power_of_ten if name == "lr" else "{:g}".format
    axes.yaxis.set_major_formatter(lambda value, _: written(value))


def _power_of_ten(value: float) -> str:
    """2e-4, also where `g` would write 0.0002 beside 8e-05."""
    if value == 0:
        return "0"
    digits, power = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _curves(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> steps and values, of the train and validation events that have a number of that name."""
    events = [one for one in read_events(run) if one["event"] in ("train", "validation")]
    found = {}
    for name in TITLES:
        points = [(one["step"], one[name]) for one in events if isinstance(one.get(name), int | float)]
        if points:
            steps, values = zip(*points, strict=True)
            found[name] = (np.array(steps), np.array(values, float))
    return found
