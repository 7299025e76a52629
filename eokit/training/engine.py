"""The training loop, called by pretrain and finetune: a recipe, a data set, settings, and a folder for the run.

    run/settings.yaml      what the run was started with
    run/events.jsonl       what happened (eokit.training.events)
    run/checkpoints/       where it can go on (eokit.training.checkpoint)

A step depends on nothing but the weights before it and its number, which names its samples and seeds its randomness:
a run that was killed and continued ends, on a CPU, with the bits of one that was not.
"""

from __future__ import annotations

import math
import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset

from eokit.cores import cores
from eokit.data.collate import collate
from eokit.data.mixture import Mixture
from eokit.data.sample import Batch
from eokit.errors import EokitError, Interrupted, SetupError
from eokit.progress import Progress
from eokit.tasks.inputs import one_line
from eokit.training.distributed import StopSignals, Team, joined
from eokit.training.events import Clock
from eokit.training.optim import autocast, make_optimizer, set_learning_rate
from eokit.training.order import MixedOrder, Order, RankBatches
from eokit.training.run import About, FitResult, Run, Validation
from eokit.training.settings import LoopSettings

__all__ = ["About", "FitResult", "LoopSettings", "Recipe", "Validation", "fit"]


class Recipe(Protocol):
    """What `fit` trains: an nn.Module that turns a batch into its loss.

    forward gives {"loss": () with its gradient, further figures: () detached}. The loss is a mean, through
    `eokit.nn.reduce.global_mean`; where it is a mean over something else than samples (tokens, pixels), the output
    "weight" () says over how many in this process: with it micro-batches add up to exactly the large batch.
    Randomness in forward comes from torch's generators, or from seeds in the batch. An attribute `uses_parts` that is
    True says that a batch may leave parameters without a gradient, in all processes the same ones. A method
    `after_step(progress)`, progress in (0, 1], is called after each optimiser step if there is one (EMA).
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and figures of one batch."""
        ...


def fit(
    recipe: nn.Module,
    dataset: Dataset,
    settings: LoopSettings,
    run: Path,
    *,
    validation: Validation | None = None,
    resume: bool | Path = False,
    about: About | None = None,
) -> FitResult:
    """Train `recipe` on `dataset`, whose items are asked for by `Draw` and are Samples, for `settings.steps` steps.

    run: the folder of the run, new or empty unless resumed. resume: True goes on from the newest checkpoint if there is
    one, a path from that one. about: what the run was started with, if that is more than `settings`.
    SIGINT and SIGTERM end the step, save, and raise Interrupted; under torchrun all processes stop together.
    """
    about = about or About(settings.model_dump(mode="json"))
    with joined(settings.device) as team, StopSignals() as stop:
        book = Run(run, team, settings, about)
        try:
            return run_steps(recipe, dataset, settings, book, stop, validation, resume)
        except BaseException as error:
            if team.size > 1:  # the frames of the traceback hold what `Team.wrap` made, which must not outlive the team
                traceback.clear_frames(error.__traceback__)
            raise


def run_steps(
    recipe: nn.Module,
    dataset: Dataset,
    settings: LoopSettings,
    book: Run,
    stop: StopSignals,
    validation: Validation | None,
    resume: bool | Path,
) -> FitResult:
    """The loop of `fit`, apart from it because what `Team.wrap` makes has to be gone when the processes part."""
    team = book.team
    recipe.to(team.device).train()
    optimizer = make_optimizer(recipe, settings)
    state = book.begin(resume, recipe, optimizer)
    model = team.wrap(recipe)
    trained = [one for one in recipe.parameters() if one.requires_grad]
    batches = iter(make_loader(dataset, settings, team, state.step))
    after_step = getattr(recipe, "after_step", None)
    patience = validation.patience if validation and validation.patience else math.inf
    if validation and validation.before and state.step == 0:
        book.validate(recipe, validation)
        book.save(recipe, optimizer)
    with Progress("train", settings.steps, quiet=book.quiet, done=state.step) as bar:
        while state.step < settings.steps and state.stale < patience:
            seed_step(settings.seed, state.step, team.rank)
            rate = set_learning_rate(optimizer, state.step, settings)
            figures = forward_backward(model, batches, settings, team, book.clock)
            figures["grad_norm"] = clip_grad_norm_(trained, settings.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.step += 1
            if after_step is not None:
                after_step(state.step / settings.steps)

            book.meter.add(figures)
            last = state.step == settings.steps
            better = False
            if validation and (last or state.step % validation.every == 0):
                better = book.validate(recipe, validation)
            stopping = team.any(bool(stop.asked))
            over = last or stopping or state.stale >= patience
            saving = over or better or state.step % settings.save_every == 0
            if saving or state.step % settings.log_every == 0:
                book.record(rate)
            if saving:
                book.save(recipe, optimizer)
            bar.advance(1, **book.facts())
            if stopping and not last:
                raise Interrupted(book.interrupted(stop.asked or "a signal"))
    return book.end(recipe, stopped_early=state.step < settings.steps)


def forward_backward(
    model: nn.Module, batches: Iterator[Batch], settings: LoopSettings, team: Team, clock: Clock
) -> dict[str, Tensor]:
    """The gradients of one global batch, micro-batch by micro-batch; returns the recipe's figures of this process.

    Each micro-batch counts by its weight over all processes, so that the sum is the gradient of the large batch.
    """
    summed: dict[str, Tensor] = {}
    weights = torch.zeros((), device=team.device)
    for micro in range(settings.accumulate):
        batch = next_batch(batches, clock).to(team.device)
        silent = micro + 1 < settings.accumulate
        with team.without_sync(model) if silent else nullcontext():
            with autocast(settings.precision, team.device):
                figures = model(batch)
            weight = figures.pop("weight", torch.tensor(float(len(batch)), device=team.device))
            weight = team.sum(weight.detach().float()) if settings.accumulate > 1 else torch.ones_like(weights)
            (figures["loss"] * weight).backward()
        weights += weight
        for name, one in figures.items():
            summed[name] = summed.get(name, 0) + one.detach() * weight
    if settings.accumulate > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= weights.clamp_min(1e-12)
    return {name: one / weights.clamp_min(1e-12) for name, one in summed.items()}


def make_loader(dataset: Dataset, settings: LoopSettings, team: Team, start: int) -> DataLoader:
    """All micro-batches of this process from step `start` to the end of the run, read ahead by worker processes.

    Workers come from a fork server: forking this process, with its threads, can hang.
    """
    order = order_of(dataset, settings)
    sampler = RankBatches(order, start, settings.steps, team.rank, team.size, settings.accumulate)
    workers = settings.workers if settings.workers is not None else idle_cores(team)
    reading: dict[str, Any] = {}
    if workers:
        method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        reading = {"multiprocessing_context": method, "prefetch_factor": 2, "worker_init_fn": _leave_signals_alone}
    pin = team.device.type == "cuda"
    return DataLoader(
        dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers, pin_memory=pin, **reading
    )


def order_of(dataset: Dataset, settings: LoopSettings) -> Order | MixedOrder:
    """Which samples come when: of a mixture, each batch from one of its parts."""
    if isinstance(dataset, Mixture):
        weights = tuple(part.weight for part in dataset.parts)
        return MixedOrder(dataset.lengths, weights, settings.batch_size, settings.seed)
    return Order(len(dataset), settings.batch_size, settings.seed)  # type: ignore[arg-type]


def idle_cores(team: Team) -> int:
    """Loader processes that a process gets by default: the cores of its share but one, at most 8."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", team.size))
    return max(0, min(8, cores() // here - 1))


def next_batch(batches: Iterator[Batch], clock: Clock) -> Batch:
    """The next batch; errors of the loader's processes become the one line that they were."""
    with clock.waiting():
        try:
            return next(batches)
        except EokitError as error:
            raise one_line(error) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise SetupError(
                f"a loader process died, perhaps for want of memory ({error}); use fewer --workers"
            ) from None


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step of one process, so that no random state needs keeping."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def _leave_signals_alone(_: int) -> None:
    """Ctrl-C reaches every process of the terminal; only the training process decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
