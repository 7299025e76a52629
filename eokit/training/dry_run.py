"""What a run would cost, from one step on random numbers; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.training.distributed import joined
from eokit.training.optim import autocast, make_optimizer
from eokit.training.order import micro_batch
from eokit.training.settings import LoopSettings

PROBE = 2
"""Samples of the step that is tried; time and memory of a whole batch follow by proportion."""


@dataclass(frozen=True)
class DryRun:
    """parameters: all that the recipe holds; trained: those with a gradient. Bytes are an estimate for one process.

    step_seconds and activation_bytes are those of one micro-batch of this process, extended from `PROBE` samples.
    """

    parameters: int
    trained: int
    steps: int
    micro_batch: int
    state_bytes: int
    activation_bytes: int
    step_seconds: float
    loss: float
    device: str

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients, moments, and what a micro-batch keeps for its backward pass."""
        return self.state_bytes + self.activation_bytes


def dry_run(recipe: nn.Module, batch: Batch, settings: LoopSettings) -> DryRun:
    """Try a step of `recipe` on `batch` twice (the first one warms up) and extend it to the batch of `settings`."""
    with joined(settings.device) as team:
        micro = micro_batch(settings.batch_size, team.size, settings.accumulate)
        recipe.to(team.device).train()
        optimizer = make_optimizer(recipe, settings)
        batch = batch.to(team.device)
        for _ in range(2):
            begun = time.perf_counter()
            saved = SavedBytes(leave_out=(*recipe.parameters(), *recipe.buffers()))
            with autocast(settings.precision, team.device), saved:
                loss = recipe(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = loss.item()
            seconds = time.perf_counter() - begun
        share = micro / len(batch)
        sizes = [one.numel() for one in recipe.parameters()]
        trained = sum(one.numel() for one in recipe.parameters() if one.requires_grad)
        return DryRun(
            parameters=sum(sizes),
            trained=trained,
            steps=settings.steps,
            micro_batch=micro,
            state_bytes=4 * sum(sizes) + 12 * trained,  # float32: weights, then gradient and AdamW's two moments
            activation_bytes=int(saved.bytes * share),
            step_seconds=seconds * share * settings.accumulate,
            loss=value,
            device=str(team.device),
        )


def every_other_token(size: int, tokens: int) -> Tensor:
    """A mask (B, h, w) that hides half of `size` grids of `tokens` x `tokens`."""
    return (torch.arange(tokens * tokens).view(tokens, tokens) % 2 == 0).expand(size, tokens, tokens)


def random_labels(shape: tuple[int, ...], n_values: int) -> Tensor:
    """Class ids of a shape, such as (B, H, W)."""
    return torch.randint(n_values, shape)


class SavedBytes(AbstractContextManager):
    """Counts the bytes that autograd keeps for the backward pass; each storage once.

    leave_out: tensors that are there anyway, whatever the batch: weights.
    """

    def __init__(self, leave_out: Iterable[Tensor] = ()) -> None:
        self._kept_anyway = {one.untyped_storage().data_ptr() for one in leave_out}
        self._seen: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        """Of all storages seen so far."""
        return sum(self._seen.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._kept_anyway:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.__exit__(*exc)
