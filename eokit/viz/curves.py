"""The curves of a run: loss, learning rate and the figures to watch, from its events."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eokit.errors import DataError
from eokit.training.events import read_events
from eokit.viz.style import new_figure, save_figure, stamp_synthetic

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


def draw_curves(run: Path, path: Path, *, title: str, synthetic: bool = False) -> Path:
    """Draw the events of the run folder `run` to the PNG at `path`; returns `path`."""
    curves = _curves(run)
    if not curves:
        raise DataError(f"{run}: no train event in events.jsonl; the run did not reach its first one")
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(4.2 * columns, 2.7 * rows + 0.6)
    for number, (name, (steps, values)) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(steps, values, color="#2166ac", linewidth=1.4, marker="." if len(steps) < 30 else None)
        axes.set_title(TITLES[name], fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("step", fontsize=8)
        if name in ("loss", "grad_norm") and values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
        else:
            axes.set_ylim(min(0.0, float(values.min())), 1.08 * max(float(values.max()), 1e-12))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no common factor above, where the title is
    figure.suptitle(title, fontsize=12)
    if synthetic:
        stamp_synthetic(figure)
    return save_figure(figure, path)


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
