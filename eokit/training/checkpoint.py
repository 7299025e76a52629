"""Checkpoints: the whole state of a run as plain tensors and JSON, never a pickle.

    checkpoints/step-000100/state.safetensors   recipe.* and optimizer.<parameter>.<moment>
    checkpoints/step-000100/state.json          step, settings of the run, best metric, checksum of the tensors

Written aside, synced and renamed: a folder that is there is whole. There is no random state in it, because the loop
seeds every step from its number. Under torchrun every process reads the folder, so it lies on a shared file system.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eokit.errors import UsageError, WeightsError
from eokit.files import cleaned, put_in_place, writing
from eokit.models.bundle import load_strict
from eokit.training.settings import HARMLESS

FORMAT = 1
OF_MODEL = ("model", "preset", "encoder", "modalities", "bundle", "head")
"""Settings that say which model is trained."""
FOLDER, TENSORS, FACTS = "checkpoints", "state.safetensors", "state.json"


@dataclass
class State:
    """How far a run is: steps done, and the best validation so far (`stale`: validations since then)."""

    step: int = 0
    best_step: int | None = None
    best_metric: float | None = None
    stale: int = 0


def save_checkpoint(
    folder: Path, state: State, recipe: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]
) -> Path:
    """Write `folder/step-<state.step>`, replacing one of that name; returns its path."""
    path = folder / step_name(state.step)
    aside = folder / f".{path.name}.tmp"
    with writing(path, SafetensorError), cleaned(aside):
        aside.mkdir(parents=True)
        save_file(_flatten(recipe, optimizer), aside / TENSORS)
        facts = {"format": FORMAT, "state": asdict(state), "settings": settings, "crc32": _crc32(aside / TENSORS)}
        (aside / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        for one in (aside / TENSORS, aside / FACTS, aside):
            _sync(one)
        put_in_place(aside, path)
        _sync(folder)
    return path


def load_checkpoint(path: Path, recipe: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> State:
    """Restore recipe and optimiser from `path` and say how far the run was.

    A damaged folder is a WeightsError; settings other than those of the run are a UsageError that names the keys.
    """
    facts, tensors = _read(path)
    check_same(settings, facts["settings"], path)
    load_strict(recipe, _part(tensors, "recipe."), str(path))
    _load_optimizer(optimizer, recipe, _part(tensors, "optimizer."), path)
    return State(**facts["state"])


def load_recipe(path: Path, recipe: nn.Module) -> None:
    """Restore the recipe alone, e.g. from the best checkpoint."""
    load_strict(recipe, _part(_read(path)[1], "recipe."), str(path))


def resume_from(text: str) -> bool | Path:
    """The command line's `--resume` as `find_start` takes it: none, auto or a path."""
    return {"none": False, "auto": True}.get(text, Path(text))


def find_start(run: Path, resume: bool | Path) -> Path | None:
    """The checkpoint that run folder `run` goes on from; None starts it.

    resume: False wants an empty or new folder, True takes the newest checkpoint if there is one, a path that one.
    """
    if resume is False:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise UsageError(f"{run} is not empty; continue it with --resume auto, or choose another --out")
        return None
    folder = run / FOLDER
    if resume is True:
        return next(reversed(checkpoints(folder)), None)
    if resume.resolve().parent != folder.resolve() or not resume.is_dir():
        there = ", ".join(path.name for path in checkpoints(folder)) or "none"
        raise UsageError(f"--resume {resume}: not a checkpoint in {folder}; there: {there}")
    step_of(resume)
    return resume


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), key=step_of)


def step_name(step: int) -> str:
    """The name of the checkpoint folder of `step`."""
    return f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint folder is named after."""
    try:
        return int(path.name.removeprefix("step-"))
    except ValueError:
        raise UsageError(f"{path}: a checkpoint is a folder step-NNNNNN under checkpoints/ of a run") from None


def prune(folder: Path, keep: int) -> None:
    """Leave the newest `keep` checkpoints, and the best ones so far of each of them: any can be gone on from."""
    there = checkpoints(folder)
    best = {_best_step(path) for path in there[-keep:]}
    for path in there[:-keep]:
        if step_of(path) not in best:
            shutil.rmtree(path)


def _best_step(path: Path) -> int | None:
    try:
        return json.loads((path / FACTS).read_text(encoding="utf-8"))["state"]["best_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: no run goes on from it


def drop_later(folder: Path, step: int) -> None:
    """Remove checkpoints of later steps than `step`, from which the run now goes on another way."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            shutil.rmtree(path)


def check_same(now: dict[str, Any], then: dict[str, Any], path: Path) -> None:
    """Refuse to continue a run under other settings than it was started with (harmless ones apart).

    A WeightsError where they make another model, to which the checkpoint's weights do not belong; else a UsageError.
    """
    new, old = _dotted(now), _dotted(then)
    differing = [
        f"{key} = {new.get(key)!r} (the run has {old.get(key)!r})"
        for key in sorted(new.keys() | old.keys())
        if new.get(key) != old.get(key) and key.rpartition(".")[2] not in HARMLESS
    ]
    if differing:
        of_model = any(line.partition(".")[0].partition(" ")[0] in OF_MODEL for line in differing)
        raise (WeightsError if of_model else UsageError)(
            f"{path} belongs to a run with other settings: {'; '.join(differing)}; use those of the run, or a new --out"
        )


def _flatten(recipe: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"recipe.{key}": value for key, value in recipe.state_dict().items()}
    for name, parameter in recipe.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{moment}"] = value
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _load_optimizer(
    optimizer: torch.optim.Optimizer, recipe: nn.Module, tensors: dict[str, Tensor], path: Path
) -> None:
    names = {parameter: name for name, parameter in recipe.named_parameters()}
    order = [names[one] for group in optimizer.param_groups for one in group["params"]]
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in order}
    for key, value in tensors.items():
        name, _, moment = key.rpartition(".")
        if name not in moments:
            raise WeightsError(f"{path}: optimiser state of {name!r}, which this recipe does not train")
        moments[name][moment] = value.clone()
    state = {number: moments[name] for number, name in enumerate(order) if moments[name]}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise WeightsError(f"{path}: checkpoint format {facts['format']!r}, this eokit reads {FORMAT}")
        found = _crc32(path / TENSORS)
        if found != facts["crc32"]:
            raise ValueError(f"checksum of {TENSORS} is {found}, expected {facts['crc32']}")
        return facts, load_file(path / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: damaged checkpoint ({type(error).__name__}: {error});"
            f" continue from an older one with --resume {path.parent}/step-NNNNNN, or start again in a new --out"
        ) from None


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
