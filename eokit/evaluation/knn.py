"""Nearest neighbours: how far the features alone, with nothing learned on top, tell classes apart.

The vote of DINO (Caron et al. 2021, "Emerging properties in self-supervised vision transformers", appendix): cosine
similarity, the k = 20 nearest, each voting with exp(similarity / 0.07).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from eokit.tasks.features import Tokens

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 256
"""Queries compared at a time: 256 x 50,000 similarities are 51 MB."""


@dataclass(frozen=True)
class Neighbours:
    """A bank of labelled vectors (n, D), of length 1. labels: (n,), or (n, K) of 0 and 1."""

    bank: Tensor
    labels: Tensor
    n_classes: int
    k: int = NEIGHBOURS
    temperature: float = TEMPERATURE

    @classmethod
    def fit(cls, tokens: Tokens, n_classes: int, device: torch.device | str = "cpu") -> Neighbours:
        """Remember `tokens`; fewer of them than k means that all of them vote."""
        bank = F.normalize(tokens.features.to(device), dim=1)
        return cls(bank, tokens.labels.to(device), n_classes, min(NEIGHBOURS, len(bank)))

    def votes(self, features: Tensor) -> Tensor:
        """(n, K) votes for vectors (n, D), shares where each has several classes; else the argmax is predicted."""
        return torch.cat([self._votes(part) for part in F.normalize(features.float(), dim=1).split(CHUNK)])

    def shares(self, features: Tensor) -> Tensor:
        """(n, K) shares of the votes: of one class each, or of those that have a class and those that do not."""
        votes = self.votes(features)
        return votes if self.labels.ndim == 2 else votes / votes.sum(1, keepdim=True)

    def _votes(self, queries: Tensor) -> Tensor:
        similarity, nearest = (queries @ self.bank.T).topk(self.k, dim=1)
        weights = (similarity / self.temperature).exp()
        if self.labels.ndim == 2:
            return torch.einsum("nk,nkc->nc", weights / weights.sum(1, keepdim=True), self.labels[nearest].float())
        return weights.new_zeros(len(queries), self.n_classes).scatter_add_(1, self.labels[nearest], weights)
