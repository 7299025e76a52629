"""From stored numbers to what a model sees, and back to a bundle: band order, units, normalisation.

One `Preprocessing` is made from the training folds of a store, saved in the bundle, and applied unchanged by
training, evaluation and map inference, so that the three cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eokit.errors import WeightsError

NODATA = -32768
"""Stored value of a pixel that was not observed (int16 modalities)."""

SOURCE_NODATA = -10_000
"""In source files, reflectance x 10000 at or below this means not observed: PASTIS says it so, no sensor gets there."""


@dataclass(frozen=True)
class Input:
    """One modality as a model takes it. `scale`: physical value = stored value x scale; mean, std: physical units."""

    sensor: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    nodata: int | None = NODATA
    gsd: float = 10.0


@dataclass(frozen=True)
class Preprocessing:
    """How every modality of a model is read: `inputs` by modality name, e.g. {"s2": Input(...)}.

    A model that learned from stores in which one name has other bands ("s1-asc" with and without a ratio) has an input
    for each: the further ones are called by name and number of bands, "s1-asc/3".
    """

    inputs: dict[str, Input]

    def apply(self, modality: str, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normalise stored values (T, C, H, W) to float32 and say which pixels are valid (T, H, W).

        A pixel is valid when its first band is not nodata (the writers set all bands alike); invalid ones become 0.
        """
        one = self.inputs[modality]
        valid = np.ones(stored[:, 0].shape, bool) if one.nodata is None else stored[:, 0] != one.nodata
        gain = (one.scale / np.asarray(one.std, np.float32)).astype(np.float32)
        shift = (np.asarray(one.mean, np.float32) / np.asarray(one.std, np.float32)).astype(np.float32)
        values = stored.astype(np.float32)
        values *= gain[:, None, None]
        values -= shift[:, None, None]
        if not valid.all():
            np.copyto(values, 0.0, where=~valid[:, None])
        return values, valid

    @classmethod
    def together(cls, parts: Sequence[Preprocessing]) -> Preprocessing:
        """The inputs of all parts; one of other bands or another sensor stands beside the first of its name."""
        inputs: dict[str, Input] = {}
        for name, one in (pair for part in parts for pair in part.inputs.items()):
            first = inputs.setdefault(name, one)
            if (first.sensor, first.bands) != (one.sensor, one.bands):
                inputs.setdefault(f"{name}/{len(one.bands)}", one)
        return cls(inputs)

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities, each once."""
        return list(dict.fromkeys(name.split("/")[0] for name in self.inputs))

    def fitting(self, modality: str, *, sensor: str, bands: Sequence[str], source: str) -> Input:
        """The input for a modality of that sensor and these bands; WeightsError where none fits."""
        another = self.inputs.get(f"{modality}/{len(bands)}")
        if another is not None and (another.sensor, another.bands) == (sensor, tuple(bands)):
            return another
        self.check(modality, sensor=sensor, bands=bands, source=source)
        return self.inputs[modality]

    def check(self, modality: str, *, sensor: str, bands: Sequence[str], source: str) -> None:
        """Refuse data whose sensor or band order is not the model's (WeightsError, exit 4)."""
        if modality not in self.inputs:
            raise WeightsError(f"{source} has modality {modality!r}, the model takes {', '.join(self.inputs)}")
        one = self.inputs[modality]
        if (one.sensor, tuple(one.bands)) != (sensor, tuple(bands)):
            raise WeightsError(
                f"{source}: {modality} holds {sensor} bands {' '.join(bands)}, the model was trained on"
                f" {one.sensor} bands {' '.join(one.bands)}; give the bands in that order"
            )

    def to_dict(self) -> dict:
        """Plain lists and numbers, ready for JSON."""
        return {name: asdict(one) for name, one in self.inputs.items()}

    @classmethod
    def from_dict(cls, plain: dict) -> Preprocessing:
        """The inverse of `to_dict`; JSON lists become tuples again."""
        inputs = {}
        for name, one in plain.items():
            tuples: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in one.items()
            }
            inputs[name] = Input(**tuples)
        return cls(inputs)
