"""What every picture of eokit shares: matplotlib loaded late and without a screen, one look, the SYNTHETIC stamp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eokit.errors import SetupError
from eokit.files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130

STAMP_INCHES = 0.3
"""Height of the band that the stamp is alone in: axes, legends and titles keep out of it."""
SYNTHETIC_STAMP = "SYNTHETIC DATA"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches, drawn without a screen; SetupError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError("pictures need matplotlib; pip install 'eokit[viz]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def stamp_synthetic(figure: Figure) -> None:
    """Say on the picture, in a band of its own at the bottom, that its data were made up."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    band = STAMP_INCHES / figure.get_figheight()
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, band, 1, 1 - band))
    figure.text(0.99, band / 2, SYNTHETIC_STAMP, ha="right", va="center", fontsize=11, weight="bold", color="#b2182b")


def bare(axes: Axes, title: str) -> Axes:
    """An image's axes: no ticks, a small title."""
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)
    return axes


def save_figure(figure: Figure, path: Path) -> Path:
    """Write the PNG, making its folder; TargetError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, format="png")
    return path
