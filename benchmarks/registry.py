"""The benchmarks by name, and the settings of each. Imports nothing heavy: `eokit bench --help` reads it.

A benchmark is a file here with `cases(settings) -> list[Case]`, and an entry in `BENCHMARKS`. Its settings are a frozen
dataclass; cli/bench.py makes an option of every field.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any


def told(default: Any, help: str) -> Any:
    """A setting whose option has a help of its own, not that of other benchmarks."""
    return field(default=default, metadata={"help": help})


OF_CROPSTS = "Of CropSTS: tiny, parcel or paper."
LENGTHS = (6, 12, 24, 36, 48, 60, 72, 96, 120, 144)
"""Dates of a season, from one image a month of half a year to one every two and a half days."""


@dataclass(frozen=True)
class AttentionSettings:
    """x (B, T, N, H, D) in memory: `batch`, `seq_len` dates, `positions`, `heads`, `head_dim`.

    mask_rate: share of the keys left out, at random. backward: None measures forward and forward + backward, True and
    False one of them.
    """

    seq_len: tuple[int, ...] = (36,)
    positions: int = 64
    heads: int = 6
    head_dim: int = 64
    batch: int = 1
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"
    axis: tuple[str, ...] = ("temporal", "spatial", "joint")
    mask_rate: float = 0.0
    backward: bool | None = None


@dataclass(frozen=True)
class SequenceSettings:
    """A CropSTS of `preset` on `batch` random series of `size` x `size` pixels.

    backward: as in AttentionSettings; forward alone is what the paper draws.
    """

    seq_len: tuple[int, ...] = LENGTHS
    preset: str = told("tiny", OF_CROPSTS)
    size: int = 32
    batch: int = 1
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"
    backward: bool | None = False


@dataclass(frozen=True)
class TokensSettings:
    """`batch` samples of `positions` tokens of `width`; `mask_rate` of them are hidden, as masked pretraining does."""

    positions: int = told(1024, "Tokens of a sample.")
    width: int = 384
    batch: int = told(16, "Samples at once.")
    mask_rate: float = 0.75
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"
    backward: bool | None = None


@dataclass(frozen=True)
class PoolSettings:
    """`positions` pixels of `batch` series of `seq_len` dates; heads and width are those of L-TAE on PASTIS."""

    seq_len: tuple[int, ...] = (61,)
    positions: int = told(1024, "Pixels of a series.")
    heads: int = 16
    width: int = 256
    batch: int = 1
    mask_rate: float = 0.0
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"
    backward: bool | None = None


@dataclass(frozen=True)
class MlpSettings:
    """`rows` pixel-dates."""

    rows: int = told(4096, "Pixel-dates.")
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"
    backward: bool | None = None


@dataclass(frozen=True)
class LossesSettings:
    """`rows` features of `width` against each other, or against `prototypes`."""

    rows: int = told(2048, "Features that are compared.")
    width: int = 256
    prototypes: int = 8192
    device: str = "auto"
    backward: bool | None = None


@dataclass(frozen=True)
class LoaderSettings:
    """`patches` of `seq_len` dates of `size` x `size` pixels; `workers` processes write them."""

    seq_len: tuple[int, ...] = (61,)
    patches: int = 8
    size: int = 128
    workers: int = 2


@dataclass(frozen=True)
class TrainStepSettings:
    """A pretraining step of CropSTS `preset` on `batch` random series of `size` x `size` pixels."""

    seq_len: tuple[int, ...] = (36,)
    preset: str = told("tiny", OF_CROPSTS)
    size: int = 32
    batch: int = 4
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"


@dataclass(frozen=True)
class AnySatSettings:
    """An AnySat `preset` on scenes of anysat.py; metres: edge of a tile instead of the scene's."""

    scene: tuple[str, ...] = ("pastis", "treesatai")
    preset: str = told("base", "Of AnySat: tiny, small or base.")
    metres: int | None = None
    most_dates: int = 140
    dtype: tuple[str, ...] = ("float32",)
    device: str = "auto"


@dataclass(frozen=True)
class Benchmark:
    """module: the file's name. help: its line in `eokit bench --help`. settings: the class of its settings."""

    module: str
    help: str
    settings: type


BENCHMARKS = {
    "attention": Benchmark("attention", "Attention along time, space and both, beside torch's.", AttentionSettings),
    "sequence": Benchmark("sequence", "CropSTS over the number of dates, decoupled and joint.", SequenceSettings),
    "tokens": Benchmark("tokens", "Gathering and scattering of tokens for masked pretraining.", TokensSettings),
    "pool": Benchmark("pool", "Pooling of series with learned queries, as L-TAE does it.", PoolSettings),
    "mlp": Benchmark("mlp", "The layers that project pixel-dates in AnySat, rows in blocks.", MlpSettings),
    "losses": Benchmark("losses", "Contrastive losses, streamed against all logits in memory.", LossesSettings),
    "loader": Benchmark("loader", "Reading and writing of stores, beside zarr-python.", LoaderSettings),
    "train-step": Benchmark("train_step", "A CropSTS pretraining step, our attention and torch's.", TrainStepSettings),
    "model anysat": Benchmark("anysat", "AnySat, beside plain torch that does the published work.", AnySatSettings),
}
"""By the words after `eokit bench`."""


def load(name: str) -> Any:
    """The module of a benchmark: `cases`, and `draw` where it has a picture of its own."""
    return importlib.import_module(f"eokit_bench.{BENCHMARKS[name].module}")
