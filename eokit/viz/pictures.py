"""Images of one patch on its clearest dates: true colour, or one band in grey, and how they were stretched.

Drawn in rows by `eokit.viz.quicklook`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eokit.data.describe import iso
from eokit.data.spec import ModalitySpec
from eokit.data.store import Store
from eokit.viz.series import choose_quantity, clearest_dates, find_bands, physical
from eokit.viz.style import bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

LOW, HIGH, POWER = 1, 98, 0.8
"""Percentiles that become black and white, and the power that brightens what lies between."""


@dataclass(frozen=True)
class Pictures:
    """Titled images of one modality, all stretched alike; `stretch` says between which values."""

    titled: list[tuple[str, NDArray]]
    stretch: str


def pictures_of(store: Store, modality: str, sample: int, count: int) -> Pictures | None:
    """At most `count` dates as (H, W, 3) true colour, else (H, W) of one band; None where there is no date."""
    spec, days = store.modalities[modality], store.days(modality, sample)
    if not len(days):
        return None
    values = physical(spec, store.read(modality, sample))
    bands = find_bands(spec, ("red", "green", "blue"))
    shown = bands or [choose_quantity(spec).bands[0]]
    dates = clearest_dates(values[:, shown[-1]], count)
    images = np.moveaxis(values[dates][:, shown], 1, -1)
    low, high = _limits(images, spec)
    scaled = np.clip((images - low) / max(high - low, 1e-6), 0, 1)
    images = np.nan_to_num(scaled**POWER)
    note = "" if bands else f" {spec.bands[shown[0]]}"
    titled = [
        (f"{modality}{note} {iso(days[date])}", image if bands else image[..., 0])
        for date, image in zip(dates, images, strict=True)
    ]
    return Pictures(titled, f"{modality}{note} {_number(low)} to {_number(high)}")


def draw_row(part: SubFigure, columns: int, sets: Sequence[Pictures]) -> list[Axes]:
    """The images side by side, and below them how each modality was stretched; all axes of the row."""
    row = list(part.subplots(1, columns, squeeze=False)[0])
    for axes in row:
        axes.set_axis_off()
    titled = [one for pictures in sets for one in pictures.titled]
    for axes, (title, image) in zip(row, titled, strict=False):
        bare(axes, title).imshow(image, cmap="gray", vmin=0, vmax=1)  # the colour map is for single bands
    if sets:
        how = f"black to white: {LOW}st to {HIGH}th percentile of the dates shown, 8 bits from 0 to 255, power {POWER}"
        part.supxlabel(f"{how}; {', '.join(one.stretch for one in sets)}", fontsize=6.5, color="0.35")
    return row


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or not value else f"{value:.1f}"


def _limits(images: NDArray[np.float32], spec: ModalitySpec) -> tuple[float, float]:
    """The values that become black and white: percentiles of the dates shown; of eight-bit images 0 and 255."""
    if spec.dtype == "uint8" or not np.isfinite(images).any():
        return 0.0, 255.0
    low, high = np.nanpercentile(images, (LOW, HIGH))
    return float(low), float(high)
