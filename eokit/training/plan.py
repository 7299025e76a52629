"""What a pretraining is told, and what it is once it is laid out; each model family has a file that lays it out.

Called by eokit.training.pretrain; the families' files are `PLANS` there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field, field_validator
from torch.utils.data import Dataset

from eokit.config import Settings
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.data.store import Store
from eokit.errors import UsageError
from eokit.models.base import Encoder
from eokit.pretraining.ema import momentum_at
from eokit.training.settings import LoopSettings

START_SHARE = 0.01
"""Share of a teacher's weights that may still be those it started with."""


class PretrainSettings(Settings):
    """What `pretrain` is told; values that are None are chosen by preset and store, see `lay_out`."""

    model: str = "cropsts"
    preset: str = Field(default="tiny", description="tiny is for a CPU; `eokit models info MODEL` names all")
    data: tuple[Path, ...] | None = Field(
        default=None, description="the stores, of which CropSTS takes one; null: the only one in ./data, AnySat: all"
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="how often a batch comes from each store; null: by the square root of its samples"
    )
    out: Path | None = Field(default=None, description="the folder of the run; null: ./runs/MODEL-TIME")
    folds: tuple[int, ...] | None = Field(
        default=None, description="null: all but the last two, which validate and test"
    )
    modalities: tuple[str, ...] | None = Field(
        default=None, description="null: CropSTS: s2, or the first of the store; AnySat: all that it knows"
    )
    dates: int | None = Field(default=None, gt=0, description="at most so many dates a sample, drawn anew each time")
    crop: int | None = Field(
        default=None, gt=0, description="edge of the window of a sample, pixels of 10 m, drawn anew each time"
    )
    scales: tuple[int, ...] | None = Field(
        default=None, description="AnySat: patch sizes in metres, one drawn for each batch; null: what the store's fit"
    )
    limit: int | None = Field(default=None, gt=0, description="at most so many samples")
    epochs: float | None = Field(default=None, gt=0, description="passes over the samples, instead of loop.steps")
    encoder: dict[str, Any] = Field(default={}, description="values over those of the preset, e.g. depth")
    jepa: dict[str, Any] = Field(default={}, description="values of the recipe, e.g. predictor_depth")
    loop: LoopSettings = LoopSettings()
    resume: str = Field(default="none", description="none, auto (the newest checkpoint in out, if any) or a checkpoint")
    quiet: bool = False

    @field_validator("data", mode="before")
    @classmethod
    def _one_is_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class Recipe(Protocol):
    """What a pretraining trains: a student and the teacher that follows it."""

    encoder: Encoder
    teacher: Encoder
    config: Any


@dataclass
class Plan:
    """A pretraining laid out: `settings` without gaps, everything built, nothing written.

    recipe: an nn.Module that is a `Recipe`. masks: what hides the patches, in words. probe: a batch of noise of the
    kind that the recipe takes.
    """

    settings: PretrainSettings
    stores: tuple[Store, ...]
    preprocessing: Preprocessing
    dataset: Dataset
    samples: int
    recipe: Any
    masks: str
    probe: Callable[[], Batch]
    notes: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        """Whether any of the data was made up."""
        return any(store.synthetic for store in self.stores)


class Scale(NamedTuple):
    """How much a preset is fed, for how long and how fast it learns, where the settings do not say. crop: pixels."""

    batch_size: int
    crop: int
    dates: int
    steps: int = 1000
    epochs: float | None = None
    lr: float | None = None


def lengthened(settings: PretrainSettings, scale: Scale, samples: int) -> LoopSettings:
    """The loop with batch size, rate and steps filled in: from the settings, else from the preset's scale."""
    loop = settings.loop
    if "lr" not in loop.model_fields_set and scale.lr is not None:
        loop = loop.model_copy(update={"lr": scale.lr})
    if "batch_size" not in loop.model_fields_set:
        loop = loop.model_copy(update={"batch_size": scale.batch_size})
    told = "steps" in loop.model_fields_set
    epochs = settings.epochs or (None if told else scale.epochs)
    steps = loop.steps if told else scale.steps
    if epochs:
        steps = max(1, math.ceil(epochs * samples / loop.batch_size))
    return loop.model_copy(update={"steps": steps})


def check_length(settings: PretrainSettings) -> None:
    """UsageError where both steps and epochs are given."""
    if settings.epochs and "steps" in settings.loop.model_fields_set:
        both = f"steps = {settings.loop.steps} and epochs = {settings.epochs:g}"
        raise UsageError(f"{both}: a run has one length, give one of them")


def say_length(loop: LoopSettings, samples: int, what: str) -> str:
    """How long a run is, in words."""
    epochs = loop.steps * loop.batch_size / samples
    return f"{loop.steps:,} steps of {loop.batch_size} over {samples:,} samples of {what}: {epochs:,.1f} epochs"


def say_folds(store: Store, folds: Iterable[int]) -> str | None:
    """Which folds are trained on and which are left, None where all are trained on."""
    left = sorted(set(store.folds.tolist()) - set(folds))
    if not left:
        return None
    return f"training on folds {words(folds)}; {words(left)} are left to validate and test"


def origin(store: Store) -> str:
    """The name of a store's data set, and that it is synthetic if it is."""
    return store.dataset + (" (SYNTHETIC)" if store.synthetic else "")


def words(numbers: Iterable[int]) -> str:
    """Numbers with a space between them."""
    return " ".join(str(number) for number in numbers)


def kept_encoder(recipe: Recipe, steps: int) -> Literal["teacher", "student"]:
    """Which encoder a run of `steps` keeps: the teacher, unless more than `START_SHARE` of it is the random start.

    With I-JEPA's momentum that is so below some 2,300 steps. A faster teacher is no way out: at 150 steps it followed
    the student into a partial collapse.
    """
    start = math.prod(momentum_at((step + 1) / steps, *recipe.config.momentum) for step in range(steps))
    return "student" if start > START_SHARE else "teacher"
