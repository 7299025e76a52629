"""Semantic segmentation: an encoder and a head as one model, its training loss, and its bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.errors import ArgumentError, UsageError, WeightsError
from eokit.models.base import Encoder, Features, config_from
from eokit.models.bundle import Bundle, load_strict
from eokit.nn.reduce import global_mean
from eokit.tasks.heads import HEADS, seen_pixels
from eokit.tasks.linear_probe import NEVER
from eokit.tasks.metrics import confusion

Mode = Literal["full", "frozen", "head-only"]
"""full: encoder and head learn, the encoder more slowly. frozen: the encoder stays as it is, in evaluation mode, and
sees every augmented sample anew; the head learns. head-only: the features of each training patch are computed once and
kept, the head learns from those (no augmentation, far faster, the head is the same as in frozen)."""


@dataclass(frozen=True)
class Task:
    """What a segmentation head predicts. label: the store's layer. classes: names by id. ignore: the void id.

    dates, size: dates and pixels (along an edge) of the samples that it learned from, and so should be shown: more of
    either moves the encoder's features. None: any.
    """

    classes: tuple[str, ...]
    ignore: int | None = None
    head: str = "conv"
    label: str = "semantic"
    dates: int | None = None
    size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for a bundle."""
        return {"kind": "segmentation"} | asdict(self) | {"classes": list(self.classes)}


class SegmentationModel(nn.Module):
    """Encoder and head; `forward(batch)` gives logits (B, K, H, W) in which void can never win."""

    def __init__(self, encoder: Encoder, task: Task) -> None:
        super().__init__()
        if task.head not in HEADS:
            raise UsageError(f"head {task.head!r} is unknown; heads: {', '.join(HEADS)}")
        self.encoder, self.task = encoder, task
        self.head = HEADS[task.head](encoder.width, encoder.patch_size, len(task.classes))

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, K, H, W) of a batch."""
        return self.decode(self.encoder(batch))

    def logits_and_seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H, W), and (B, H, W) bool where they mean something: in patches that the encoder saw."""
        features = self.encoder(batch)
        return self.decode(features), seen_pixels(features.seen, self.encoder.patch_size)

    def decode(self, features: Features) -> Tensor:
        """Logits (B, K, H, W) from features; the void class gets `NEVER`."""
        logits = self.head(features)
        ignore = self.task.ignore
        if ignore is None or not 0 <= ignore < logits.shape[1]:
            return logits
        void = torch.arange(logits.shape[1], device=logits.device) == ignore
        return logits.masked_fill(void[:, None, None], NEVER)

    def to_bundle(self, preprocessing: Preprocessing, provenance: dict[str, Any]) -> Bundle:
        """A bundle that `from_bundle` turns into the same model."""
        return Bundle(self.encoder, preprocessing, self.task.to_dict(), self.head.state_dict(), provenance)

    @classmethod
    def from_bundle(cls, bundle: Bundle, source: str = "bundle") -> SegmentationModel:
        """The fine-tuned model of a bundle; one without a head, or whose head does not fit, is a WeightsError."""
        plain = dict(bundle.task or {})
        if not plain:
            raise WeightsError(f"{source} holds an encoder without a head; fine-tune it first (eokit finetune)")
        if plain.pop("kind", None) != "segmentation":
            raise WeightsError(f"{source} was made for {(bundle.task or {}).get('kind')!r}, expected 'segmentation'")
        try:
            model = cls(bundle.encoder, config_from(Task, plain, "task"))
        except UsageError as error:
            raise WeightsError(f"{source}: {error}") from None
        load_strict(model.head, bundle.head, f"{source}: head")
        return model


class SegmentationRecipe(nn.Module):
    """Weighted cross-entropy over labelled pixels that some date has seen; what the training loop steps.

    In mode "head-only" batches carry features instead of pixels (see `pack_features`).
    """

    class_weights: Tensor

    def __init__(
        self,
        model: SegmentationModel,
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
        model.encoder.requires_grad_(mode == "full")
        self.lr_scales = {"model.encoder.": encoder_lr_scale}  # read by eokit.training.optim

    def train(self, mode: bool = True) -> SegmentationRecipe:
        """Training mode for what learns; a fixed encoder stays in evaluation mode (no drop path)."""
        super().train(mode)
        if self.mode != "full":
            self.model.encoder.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its weight over this batch, and the share of counted pixels that are right (`oa`)."""
        features = self._features(batch)
        logits = self.model.decode(features).float()
        truth = batch.targets[self.model.task.label].long()
        if truth.shape[-2:] != logits.shape[-2:]:
            raise ArgumentError(f"labels are {tuple(truth.shape[-2:])} pixels, logits {tuple(logits.shape[-2:])}")
        counted = seen_pixels(features.seen, self.model.encoder.patch_size)
        if self.model.task.ignore is not None:
            counted &= truth != self.model.task.ignore
        truth = truth.masked_fill(~counted, 0)
        weight = self.class_weights[truth] * counted
        total = (F.cross_entropy(logits, truth, reduction="none") * weight).sum()
        right = ((logits.detach().argmax(1) == truth) & counted).sum()
        weight_sum = weight.sum()
        share = right / counted.sum().clamp_min(1)
        return {"loss": global_mean(total, weight_sum), "weight": weight_sum.detach(), "oa": share}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Class ids (B, H, W)."""
        return self.model.decode(self._features(batch)).argmax(1)

    def _features(self, batch: Batch) -> Features:
        if self.mode == "full":
            return self.model.encoder(batch)
        if self.mode == "head-only":
            return unpack_features(batch)
        with torch.no_grad():
            return self.model.encoder(batch)


def patch_matrices(predict: Callable[[Batch], Tensor], batches: Iterable[Batch], task: Task) -> Tensor:
    """One confusion matrix a sample (N, K, K): what `predict` says, (B, H, W) class ids, against the task's labels."""
    matrices = [
        confusion(predict(batch), batch.targets[task.label], len(task.classes), task.ignore) for batch in batches
    ]
    return torch.cat(matrices)


def pack_features(features: Features) -> list[dict[str, Tensor]]:
    """Features of a batch as targets, one dict a sample, so that they travel where pixels would."""
    tiles, patches, seen = features.tile.cpu(), features.patch.cpu(), features.seen.cpu()
    return [{"tile": tiles[i], "patch": patches[i], "seen": seen[i]} for i in range(len(tiles))]


def unpack_features(batch: Batch) -> Features:
    """The inverse of `pack_features`, of a collated batch."""
    return Features(tile=batch.targets["tile"], patch=batch.targets["patch"], seen=batch.targets["seen"])


def weights_from_counts(counts: np.ndarray, ignore: int | None) -> list[float]:
    """Class weights ~ 1 / sqrt(pixels of the class), scaled so that the mean weight of a labelled pixel is 1.

    The square root lies between no weights (rare crops are never predicted) and full inverse frequency (they are
    predicted everywhere). Void and classes without a pixel get 0; they are never a target.
    """
    counts = np.asarray(counts, np.float64).copy()
    if ignore is not None and 0 <= ignore < len(counts):
        counts[ignore] = 0
    weights = np.divide(1.0, np.sqrt(counts), out=np.zeros_like(counts), where=counts > 0)
    mass = (weights * counts).sum()
    return (weights * counts.sum() / mass).tolist() if mass else weights.tolist()
