"""Published checkpoints as files: read without running anything that they hold. Called by `eokit.tasks.convert`."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eokit.errors import UsageError, WeightsError
from eokit.models.base import Encoder


@dataclass(frozen=True)
class Published:
    """An encoder with published weights, every tensor of it. left_out: owner -> tensors of the file not taken."""

    encoder: Encoder
    matched: int
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """How many tensors matched, and whose the others are."""
        told = f"{self.matched} of {self.matched} tensors match"
        if not self.left_out:
            return told
        whose = " and ".join(self.left_out)
        return f"{told}; {sum(self.left_out.values())} of the file belong to {whose} and are left out"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch checkpoint, alone or under `state_dict`, by name.

    Nothing but tensors and plain values is unpickled; a file that holds more, or is damaged, is a WeightsError.
    """
    if not file.is_file():
        raise UsageError(f"{file}: {'is no file' if file.exists() else 'does not exist'}; give the published weights")
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file}: cannot be read ({error}); download it again") from None
    found = _read_torch(file)
    found = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(found, Mapping):
        raise WeightsError(f"{file}: holds a {type(found).__name__}, expected tensors by name")
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _read_torch(file: Path) -> Any:
    """What torch reads of a checkpoint, with tensors mapped into memory where the file's form allows that."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except pickle.UnpicklingError as error:
        held = re.search(r"GLOBAL (\S+)", str(error))
        if held is None:
            raise WeightsError(f"{file}: is no torch checkpoint; download it again") from None
        raise WeightsError(
            f"{file}: holds {held[1]} beside tensors, which cannot be read safely; where you trust the file, load it"
            " with torch.load(..., weights_only=False) and save its state_dict alone"
        ) from None
    except (OSError, RuntimeError) as error:
        sentence = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise WeightsError(f"{file}: is no torch checkpoint ({sentence}); download it again") from None
    except Exception:  # an unpickler stumbles over arbitrary bytes in any way: IndexError, KeyError, ...
        raise WeightsError(f"{file}: is no torch checkpoint; download it again") from None
