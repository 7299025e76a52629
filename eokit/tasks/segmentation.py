"""Semantic segmentation: an encoder and a head as one model that draws maps, and its training loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.errors import ArgumentError
from eokit.models.base import Features
from eokit.nn.reduce import global_mean
from eokit.tasks.features import Labels, Tokens, sample_tokens, seen_pixels
from eokit.tasks.heads import HEADS
from eokit.tasks.linear_probe import NEVER
from eokit.tasks.metrics import confusion, scores
from eokit.tasks.task import Task, TaskModel, TaskRecipe


class SegmentationModel(TaskModel):
    """Encoder and head; `forward(batch)` gives logits (B, K, H, W) in which void can never win."""

    kinds = ("segmentation",)
    heads = HEADS

    @property
    def patch(self) -> int:
        """Pixels of the map along a patch."""
        return self.task.patch or self.encoder.patch_size

    def make_head(self) -> nn.Module:
        """A head from features of patches or sub-patches to pixels."""
        kind = HEADS[self.task.head]
        width = self.encoder.dense_width if kind.reads == "dense" else self.encoder.width
        return kind(width, self.patch, len(self.task.classes))

    def logits_and_seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K, H, W), and (B, H, W) bool where they mean something: in patches that the encoder saw."""
        features = self.encoder(batch)
        return self.decode(features), seen_pixels(features.seen, self.patch)

    def decode(self, features: Features) -> Tensor:
        """Logits (B, K, H, W) from features; the void class gets `NEVER`."""
        logits = self.head(features)
        ignore = self.task.ignore
        if ignore is None or not 0 <= ignore < logits.shape[1]:
            return logits
        void = torch.arange(logits.shape[1], device=logits.device) == ignore
        return logits.masked_fill(void[:, None, None], NEVER)

    def tokens(self, encoded: Iterable[tuple[Features, Tensor]], share: int, seed: int) -> Tokens:
        """Vectors of the features that the head reads, each with the majority class of its pixels."""
        labels = Labels(self.task.label, len(self.task.classes), self.task.ignore)
        return sample_tokens(encoded, labels, share=share, seed=seed, of=self.head.reads)


class SegmentationRecipe(TaskRecipe):
    """Weighted cross-entropy over labelled pixels that some date has seen."""

    model: SegmentationModel

    @property
    def metric(self) -> str:
        """Of the classes' intersections over unions, the mean."""
        return "miou"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its weight over this batch, and the share of counted pixels that are right (`oa`)."""
        features = self.features(batch)
        logits = self.model.decode(features).float()
        truth = batch.targets[self.model.task.label].long()
        if truth.shape[-2:] != logits.shape[-2:]:
            raise ArgumentError(f"labels are {tuple(truth.shape[-2:])} pixels, logits {tuple(logits.shape[-2:])}")
        counted = seen_pixels(features.seen, self.model.patch)
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
        return self.model.decode(self.features(batch)).argmax(1)

    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Scores of the summed confusion matrix."""
        task = self.model.task
        got = scores(patch_matrices(self.predict, batches, task).sum(0), task.classes, task.ignore)
        return {name: got[name] for name in ("miou", "oa", "macro_f1")}


def patch_matrices(predict: Callable[[Batch], Tensor], batches: Iterable[Batch], task: Task) -> Tensor:
    """One confusion matrix a sample (N, K, K): what `predict` says, (B, H, W) class ids, against the task's labels."""
    matrices = [
        confusion(predict(batch), batch.targets[task.label], len(task.classes), task.ignore) for batch in batches
    ]
    return torch.cat(matrices)
