"""The baseline to beat: a random forest on raw series of pixels, or on the moments of whole samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.data.sample import Sample
from eokit.evaluation.raw_series import Grid, columns
from eokit.tasks.features import Tokens

TREES = 100


@dataclass
class Forest:
    """A fitted forest of classes 0 to `n_classes` - 1."""

    model: Any
    n_classes: int

    @classmethod
    def fit(cls, train: Tokens, n_classes: int, seed: int = 0) -> Forest:
        """A forest on `train`: one class each, or several."""
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(n_estimators=TREES, random_state=seed, n_jobs=-1)
        model.fit(train.features.numpy(), train.labels.numpy())
        return cls(model, n_classes)

    @property
    def columns(self) -> int:
        """Numbers that it learned from, of each pixel or sample."""
        return int(self.model.n_features_in_)

    def predict(self, sample: Sample, grid: Grid, shape: tuple[int, int]) -> Tensor:
        """(H, W) int64 class ids of the pixels of one sample."""
        prediction = self.model.predict(columns(sample, grid, np.arange(shape[0] * shape[1])))
        return torch.from_numpy(prediction.astype(np.int64)).reshape(shape)

    def shares(self, features: Tensor) -> Tensor:
        """(n, K) float32, the shares of trees for each class; each class by itself where a sample has several."""
        told = self.model.predict_proba(features.numpy())
        out = np.zeros((len(features), self.n_classes), np.float32)
        if isinstance(told, list):
            for k, (share, known) in enumerate(zip(told, self.model.classes_, strict=True)):
                out[:, k] = share[:, known == 1].sum(1)
        else:
            out[:, self.model.classes_] = told
        return torch.from_numpy(out)
