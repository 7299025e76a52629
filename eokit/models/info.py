"""What a model family is in words and numbers, for `eokit models`; each family module has one as `INFO`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SensorRow:
    """One modality that a family takes. shape: of one sample. gsd: metres of a pixel, None for any."""

    modality: str
    title: str
    shape: str
    bands: tuple[str, ...]
    gsd: float | None


@dataclass(frozen=True)
class ModelInfo:
    """A model family in words. presets: name -> parameters. weights: where published ones are, in words.

    parity: how eokit's outputs were compared with those of the published code, and what was not compared.
    """

    name: str
    title: str
    summary: str
    sensors: tuple[SensorRow, ...]
    presets: Mapping[str, int]
    code_licence: str
    weights_licence: str
    citation: str
    weights: str
    parity: str
