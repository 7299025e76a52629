"""One process or many: what torchrun started, behind a face that reads the same for one.

On a CPU the processes talk through gloo. With GPUs, tensors on the device go through nccl and the small host-side
agreements (was a signal caught, where to continue) through gloo, so that they never wait for the device.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eokit.nn.device import pick_device

T = TypeVar("T")

_OPTIONS = inspect.signature(DistributedDataParallel).parameters
BROADCAST_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"
"""The option that torch renamed in 2.13; the older name warns there."""


@dataclass(frozen=True)
class Team:
    """The processes of one run: this is number `rank` of `size`, working on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def wrap(self, recipe: nn.Module) -> nn.Module:
        """`recipe` with gradients averaged over the processes; itself where there is one."""
        if self.size == 1:
            return recipe
        # Buffers are not broadcast at every step: every process makes the same ones from the same weights.
        no_broadcast: dict[str, Any] = {BROADCAST_BUFFERS: False}
        unused = getattr(recipe, "uses_parts", False)
        return DistributedDataParallel(
            recipe, gradient_as_bucket_view=True, find_unused_parameters=unused, **no_broadcast
        )

    def without_sync(self, model: nn.Module) -> AbstractContextManager:
        """Backward passes in this context keep their gradients to themselves (all micro-batches but the last)."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes of a tensor of any shape."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all get the same answer."""
        return bool(self.sum(torch.tensor(int(flag))))

    def agree(self, value: T) -> T:
        """The value that the first process has."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)


def team_size() -> int:
    """How many processes torchrun started, known before they are joined; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and prints, known before the team is joined."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def joined(device: str = "auto") -> Iterator[Team]:
    """Join the processes that torchrun started (environment variables); one process without torchrun.

    device: auto, cpu, cuda or cuda:1. Inside another `joined` the team that exists is given again.
    """
    chosen = pick_device(device)
    if dist.is_initialized():
        yield Team(dist.get_rank(), dist.get_world_size(), chosen)
    elif team_size() == 1:
        yield Team(0, 1, chosen)
    else:
        # First imported while a group exists, its default arguments would keep that group and its threads for ever.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
        # The last reference: only this one waits for the threads without the GIL, which they need (docs/decisions.md).
        group = dist.group.WORLD
        try:
            yield Team(dist.get_rank(), dist.get_world_size(), chosen)
        finally:
            dist.destroy_process_group()
            del group


class StopSignals:
    """`with StopSignals() as stop:` SIGINT and SIGTERM only set `stop.asked`; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        except ValueError:  # not the main thread: signals are somebody else's
            self._before = {}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        self.__exit__()
