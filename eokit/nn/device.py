"""Which device a name means; asked by training, evaluation and mapping."""

from __future__ import annotations

import os

import torch

from eokit.errors import SetupError, UsageError


def pick_device(name: str) -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:1); a GPU that is not there is a SetupError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):  # torch knows others, on which nothing here was tried
        raise UsageError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
    if index >= count:
        raise SetupError(
            f"device cuda:{index} is asked for, torch sees {count} GPUs; use --device cpu, or see `eokit doctor`"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
