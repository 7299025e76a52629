"""Labels of whole samples, one class or several at once: an encoder and a head as one model, and its training loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.errors import DataError
from eokit.models.base import Features
from eokit.nn.reduce import global_mean
from eokit.tasks.features import Labels, Tokens, gather_tiles, labelled
from eokit.tasks.heads import TileHead
from eokit.tasks.linear_probe import NEVER
from eokit.tasks.metrics import confusion, scores
from eokit.tasks.multilabel import MULTILABEL_SUMMARY, multilabel_scores
from eokit.tasks.task import Task, TaskModel, TaskRecipe


class ClassificationModel(TaskModel):
    """Encoder and head; `forward(batch)` gives logits (B, K)."""

    kinds = ("classification", "multilabel")
    heads = MappingProxyType({"linear": TileHead})

    def make_head(self) -> nn.Module:
        """A linear layer on the vector of a sample."""
        return TileHead(self.encoder.width, len(self.task.classes))

    def decode(self, features: Features) -> Tensor:
        """Logits (B, K) from features; where a sample has one class, void gets `NEVER`."""
        logits = self.head(features)
        if self.task.kind == "multilabel" or self.task.ignore is None:
            return logits
        return logits.masked_fill(torch.arange(logits.shape[1], device=logits.device) == self.task.ignore, NEVER)

    def shares(self, batch: Batch) -> Tensor:
        """Probabilities (B, K): of each class by itself, or where a sample has one class, of all together 1."""
        return as_shares(self(batch), self.task.kind == "multilabel")

    def tokens(self, encoded: Iterable[tuple[Features, Tensor]], share: int, seed: int) -> Tokens:
        """The vector of every sample, and its labels."""
        return gather_tiles(encoded, Labels(self.task.label, len(self.task.classes), self.task.ignore))


class ClassificationRecipe(TaskRecipe):
    """Cross-entropy over the classes of a sample, or of each class by itself, of samples that some date has seen."""

    model: ClassificationModel

    @property
    def metric(self) -> str:
        """Mean average precision where a sample has several classes, else macro F1."""
        return "macro_map" if self.model.task.kind == "multilabel" else "macro_f1"

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, its weight over this batch, and the share of counted labels that are right (`oa`)."""
        task, features = self.model.task, self.features(batch)
        logits = self.model.decode(features).float()
        truth = batch.targets[task.label].long()
        seen = features.seen.flatten(1).any(1)
        counted = labelled(truth, task.ignore) & (seen[:, None] if task.kind == "multilabel" else seen)
        truth = truth.masked_fill(~counted, 0)
        if task.kind == "multilabel":
            terms = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
            weight, right = counted.float(), (logits.detach() > 0) == truth
        else:
            terms = F.cross_entropy(logits, truth, reduction="none")
            weight, right = self.class_weights[truth] * counted, logits.detach().argmax(1) == truth
        weight_sum = weight.sum()
        share = (right & counted).sum() / counted.sum().clamp_min(1)
        return {"loss": global_mean((terms * weight).sum(), weight_sum), "weight": weight_sum.detach(), "oa": share}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Probabilities (B, K)."""
        return as_shares(self.model.decode(self.features(batch)), self.model.task.kind == "multilabel")

    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Average precision and F1 of several classes at once; overall accuracy and F1 of one."""
        task = self.model.task
        shares, truth = predict_all(self.predict, batches, task)
        if task.kind == "multilabel":
            got = multilabel_scores(shares.numpy(), truth.numpy(), task.classes)
            return {name: got[name] for name in MULTILABEL_SUMMARY}
        matrix = confusion(shares.argmax(1)[None], truth[None], len(task.classes), task.ignore)[0]
        got = scores(matrix, task.classes, task.ignore)
        return {name: got[name] for name in ("macro_f1", "oa")}


def as_shares(logits: Tensor, several: bool) -> Tensor:
    """Probabilities (B, K) from logits (B, K): of each class by itself, or all together 1."""
    return logits.float().sigmoid() if several else logits.float().softmax(1)


def predict_all(predict: Callable[[Batch], Tensor], batches: Iterable[Batch], task: Task) -> tuple[Tensor, Tensor]:
    """What `predict` says of every labelled sample, (n, K) on the CPU, and the truth (n,) or (n, K)."""
    return collect(((predict(batch), batch.targets[task.label]) for batch in batches), task.label, task.ignore)


def collect(said: Iterable[tuple[Tensor, Tensor]], name: str, ignore: int | None) -> tuple[Tensor, Tensor]:
    """Batches of (B, K) and labels (B,) or (B, K) as one of each on the CPU, void samples of layer `name` left out."""
    shares, truth = [], []
    for one, given in said:
        known = labelled(given, ignore).reshape(len(given), -1).all(1)
        shares.append(one[known].float().cpu())
        truth.append(given[known].long().cpu())
    if not sum(map(len, truth)):
        raise DataError(f"no labelled sample to score: every {name!r} of these folds is void")
    return torch.cat(shares), torch.cat(truth)
