"""What a dry run tells of a recipe: the step it would take, and what that keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eokit.data.collate import collate
from eokit.data.dataset import Draw
from eokit.data.sample import Batch
from eokit.errors import UsageError
from eokit.training.dry_run import SavedBytes, dry_run
from eokit.training.engine import LoopSettings
from tests.training.toys import ToyData, ToyRecipe


def toy_batch(size: int) -> Batch:
    return collate([ToyData()[Draw(0, number)] for number in range(size)])


def test_a_batch_that_a_run_would_refuse_is_refused():
    settings = LoopSettings(batch_size=15, accumulate=4, device="cpu")
    with pytest.raises(UsageError, match=r"batch_size 15 does not divide .* use a multiple of 4"):
        dry_run(ToyRecipe(), toy_batch(2), settings)


def test_weights_are_not_among_what_a_batch_keeps():
    layer, rows = nn.Linear(100, 50), torch.randn(3, 100)
    with SavedBytes(leave_out=layer.parameters()) as saved:
        layer(rows.requires_grad_()).sum()
    assert saved.bytes == rows.nbytes
