"""What every task with a head shares: its description, the model of encoder and head, the modes in which it learns.

`eokit.tasks.segmentation` does maps, `eokit.tasks.classification` labels of whole samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.data.spec import LabelSpec
from eokit.errors import ArgumentError, UsageError, WeightsError
from eokit.models.base import Encoder, Features, config_from
from eokit.models.bundle import Bundle, load_strict
from eokit.tasks.features import Tokens

Kind = Literal["segmentation", "classification", "multilabel"]
"""segmentation: a class a pixel. classification: a class a sample. multilabel: any number of classes a sample."""
Mode = Literal["full", "frozen", "head-only"]
"""full: encoder and head learn, the encoder more slowly. frozen: the encoder stays as it is, in evaluation mode, and
sees every augmented sample anew; the head learns. head-only: the features of each training sample are computed once and
kept, the head learns from those (no augmentation, far faster, the head is the same as in frozen)."""


def kind_of(spec: LabelSpec) -> Kind:
    """The task that a label layer is for."""
    return "segmentation" if spec.is_map else "multilabel" if spec.multilabel else "classification"


@dataclass(frozen=True)
class Task:
    """What a head predicts. label: the store's layer. classes: names by id. ignore: the value that is void.

    dates, size: dates and pixels (along an edge) of the samples that it learned from, and so should be shown: more of
    either moves the encoder's features. None: any.
    patch: pixels of the label map along a patch of the encoder; None: as many as of the encoder's own grid.
    """

    classes: tuple[str, ...]
    ignore: int | None = None
    head: str = "conv"
    label: str = "semantic"
    dates: int | None = None
    size: int | None = None
    patch: int | None = None
    kind: str = "segmentation"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for a bundle."""
        return asdict(self) | {"classes": list(self.classes)}


class TaskModel(nn.Module):
    """Encoder and head; `forward(batch)` gives logits.

    kinds: the tasks that a model does. heads: the heads that it knows; each tells which features it `reads`, tile,
    patch or dense, and can `start` as the linear probe of some of them.
    """

    kinds: ClassVar[tuple[str, ...]]
    heads: ClassVar[Mapping[str, type[nn.Module]]]
    head: Any

    def __init__(self, encoder: Encoder, task: Task) -> None:
        super().__init__()
        if task.head not in self.heads:
            raise UsageError(f"head {task.head!r} is unknown; heads: {', '.join(self.heads)}")
        self.encoder, self.task = encoder, task
        self.head = self.make_head()

    def make_head(self) -> nn.Module:
        """A new head for the encoder's features."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch."""
        return self.decode(self.encoder(batch))

    def decode(self, features: Features) -> Tensor:
        """Logits from features."""
        raise NotImplementedError

    def tokens(self, encoded: Iterable[tuple[Features, Tensor]], share: int, seed: int) -> Tokens:
        """What the head can start from: at most `share` labelled vectors a sample, drawn by `seed`."""
        raise NotImplementedError

    def to_bundle(self, preprocessing: Preprocessing, provenance: dict[str, Any]) -> Bundle:
        """A bundle that `from_bundle` turns into the same model."""
        return Bundle(self.encoder, preprocessing, self.task.to_dict(), self.head.state_dict(), provenance)

    @classmethod
    def from_bundle(cls, bundle: Bundle, source: str = "bundle") -> Self:
        """The fine-tuned model of a bundle; one without a head, or whose head does not fit, is a WeightsError."""
        plain = dict(bundle.task or {})
        if not plain:
            raise WeightsError(f"{source} holds an encoder without a head; fine-tune it first (eokit finetune)")
        if plain.get("kind") not in cls.kinds:
            raise WeightsError(f"{source} was made for {plain.get('kind')!r}, expected {' or '.join(cls.kinds)}")
        try:
            model = cls(bundle.encoder, config_from(Task, plain, "task"))
        except UsageError as error:
            raise WeightsError(f"{source}: {error}") from None
        load_strict(model.head, bundle.head, f"{source}: head")
        return model


class TaskRecipe(nn.Module):
    """What the training loop steps: the loss of a model, its modes, and its score on whole samples.

    In mode "head-only" batches carry features instead of pixels (see `pack_features`).
    """

    class_weights: Tensor

    def __init__(
        self,
        model: TaskModel,
        class_weights: Sequence[float] | None = None,
        mode: Mode = "full",
        encoder_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        n_classes = len(model.task.classes)
        weights = torch.ones(n_classes) if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        if weights.shape != (n_classes,):
            raise ArgumentError(f"class_weights has {weights.numel()} values, expected {n_classes}: one per class")
        self.model, self.mode = model, mode
        self.register_buffer("class_weights", weights, persistent=False)
        if mode != "full":  # else what the encoder itself holds fixed stays so
            model.encoder.requires_grad_(False)
        self.uses_parts = mode == "full" and model.encoder.uses_parts  # read by eokit.training
        self.lr_scales = {"model.encoder.": encoder_lr_scale}  # read by eokit.training.optim

    def train(self, mode: bool = True) -> Self:
        """Training mode for what learns; a fixed encoder stays in evaluation mode (no drop path)."""
        super().train(mode)
        if self.mode != "full":
            self.model.encoder.eval()
        return self

    @property
    def metric(self) -> str:
        """The score that decides which state is best."""
        raise NotImplementedError

    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores of whole samples, `metric` among them."""
        raise NotImplementedError

    def features(self, batch: Batch) -> Features:
        """The encoder's features of a batch, or those that it brings."""
        if self.mode == "full":
            return self.model.encoder(batch)
        if self.mode == "head-only":
            return unpack_features(batch)
        with torch.no_grad():
            return self.model.encoder(batch)


def pack_features(features: Features, reads: str = "patch") -> list[dict[str, Tensor]]:
    """Features of a batch as targets, one dict a sample, so that they travel where pixels would.

    reads: the features that a head looks at; other maps are left behind.
    """
    kept = {"tile": features.tile.cpu(), "seen": features.seen.cpu()}
    if reads != "tile":
        kept[reads] = getattr(features, reads).cpu()
    return [{name: one[i] for name, one in kept.items()} for i in range(len(features.tile))]


def unpack_features(batch: Batch) -> Features:
    """The inverse of `pack_features`, of a collated batch; maps that were left behind have no channels."""
    tile, seen = batch.targets["tile"], batch.targets["seen"]
    nothing = tile.new_zeros(len(seen), 0, *seen.shape[1:])
    return Features(tile, batch.targets.get("patch", nothing), seen, batch.targets.get("dense"))


def weights_from_counts(counts: np.ndarray, ignore: int | None) -> list[float]:
    """Class weights ~ 1 / sqrt(count of the class), scaled so that the mean weight of what is labelled is 1.

    counts: (K,) pixels, or samples where a sample has one class. The square root lies between no weights (rare crops
    are never predicted) and full inverse frequency (they are predicted everywhere). Void and classes that do not occur
    get 0; they are never a target.
    """
    counts = np.asarray(counts, np.float64).copy()
    if ignore is not None and 0 <= ignore < len(counts):
        counts[ignore] = 0
    weights = np.divide(1.0, np.sqrt(counts), out=np.zeros_like(counts), where=counts > 0)
    mass = (weights * counts).sum()
    return (weights * counts.sum() / mass).tolist() if mass else weights.tolist()
