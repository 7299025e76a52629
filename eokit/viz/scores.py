"""Scores of several contenders side by side, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eokit.viz.style import new_figure, save_figure, stamp_synthetic

if TYPE_CHECKING:
    from eokit.evaluation.report import BaseReport

SHOWN = {"miou": "mIoU, %", "oa": "overall accuracy, %", "macro_f1": "macro F1, %"}


def draw_scores(reports: Mapping[str, BaseReport], path: Path, *, title: str) -> Path:
    """Bars of mIoU, OA and macro F1 of each named report with 95 % intervals, as a PNG at `path`."""
    figure = new_figure(9, 3.4)
    for axes, metric in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
        for row, report in enumerate(reports.values()):
            score = 100 * report.scores[metric]
            axes.barh(row, score, color=f"C{row}")
            held = report.interval.get(metric)
            if held:
                low, high = (100 * end for end in held)
                axes.plot([low, high], [row, row], color="black", linewidth=2)
            axes.text(score, row - 0.22, f" {score:.1f}", va="center", fontsize=9)
        axes.set(title=SHOWN[metric], xlim=(0, 100))
        axes.set_yticks(range(len(reports)), list(reports))
        axes.invert_yaxis() if axes is figure.axes[0] else None
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    if any(report.synthetic for report in reports.values()):
        stamp_synthetic(figure)
    return save_figure(figure, path)
