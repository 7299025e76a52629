"""A bundle: one folder with weights, configuration and preprocessing; evaluation and maps need nothing else.

    bundle.json            format version, family, model configuration, preprocessing, task (or null), provenance
    weights.safetensors    encoder.* and, for a fine-tuned model, head.*

Written aside and renamed, so that a folder that is there is whole. Loading is strict.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eokit.data.preprocessing import Preprocessing
from eokit.errors import UsageError, WeightsError
from eokit.files import cleaned, put_in_place, writing
from eokit.models.base import Encoder
from eokit.models.registry import FAMILIES, build_encoder

LOG = logging.getLogger(__name__)
FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "bundle.json", "weights.safetensors"
KEYS: dict[str, tuple[type, ...]] = {
    "family": (str,),
    "model": (dict,),
    "preprocessing": (dict,),
    "task": (dict, type(None)),
    "provenance": (dict,),
}
"""What bundle.json must hold beside its format, and as what."""


@dataclass(frozen=True)
class OpenPreprocessing(Preprocessing):
    """Of weights that come without statistics: `inputs` is empty, each store is standardised by its own.

    encoder: says what it takes and expects of a modality. A bundle whose preprocessing is empty loads as this.
    """

    encoder: Encoder


@dataclass
class Bundle:
    """An encoder with what it needs: `task` and `head` are None and empty for a pretrained encoder.

    task: plain description of the head, e.g. {"kind": "segmentation", "head": "linear", "classes": [...],
    "ignore": 19}.
    head: the head's state dict. provenance: how it came to be (data set, folds, steps, seed, synthetic or not).
    """

    encoder: Encoder
    preprocessing: Preprocessing
    task: dict[str, Any] | None = None
    head: dict[str, Tensor] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def save_bundle(path: Path, bundle: Bundle) -> Path:
    """Write `bundle` to the folder `path`, replacing an older bundle there once it is whole; returns `path`."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tensors = {f"encoder.{key}": value for key, value in bundle.encoder.state_dict().items()}
    tensors |= {f"head.{key}": value for key, value in bundle.head.items()}
    description = {
        "format": FORMAT,
        "family": bundle.encoder.family,
        "model": bundle.encoder.config_dict(),
        "preprocessing": bundle.preprocessing.to_dict(),
        "task": bundle.task,
        "provenance": bundle.provenance,
    }
    with writing(path, SafetensorError), cleaned(aside):
        aside.mkdir(parents=True)
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside / WEIGHTS_FILE)
        (aside / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        put_in_place(aside, path)
    return path


def load_bundle(path: Path) -> Bundle:
    """Read a bundle, or the newest bundle of a run folder; every tensor must match (WeightsError, exit 4)."""
    path = find_bundle(path)
    description = _read_description(path)
    with _named(path, "model"):
        encoder = build_encoder(description["family"], None, description["model"])
    with _named(path, "preprocessing"):
        preprocessing = Preprocessing.from_dict(description["preprocessing"])
        if not preprocessing.inputs:
            preprocessing = OpenPreprocessing({}, encoder)
    try:
        tensors = load_file(path / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path / WEIGHTS_FILE}: cannot be read ({error}); copy the bundle again") from None
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "head": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    load_strict(encoder, parts["encoder"], str(path))
    return Bundle(encoder, preprocessing, description["task"], parts["head"], description["provenance"])


def find_bundle(path: Path) -> Path:
    """The bundle that `path` means: itself, or `path/bundle` where `path` is the folder of a run."""
    for candidate in (path, path / "bundle"):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    what = f"no bundle here ({CONFIG_FILE} is missing)" if path.exists() else "no such folder"
    raise WeightsError(f"{path}: {what}; give what pretrain, finetune or `eokit models convert` wrote")


def newest_bundle(folder: Path = Path("runs")) -> Path:
    """The bundle that was written last among the runs in `folder`, for when none is named."""
    found = [file for pattern in (f"*/{CONFIG_FILE}", f"*/bundle/{CONFIG_FILE}") for file in folder.glob(pattern)]
    if not found:
        raise WeightsError(f"{folder} holds no bundle; name the folder that pretrain or finetune wrote")
    return max(found, key=lambda file: file.stat().st_mtime_ns).parent


def load_strict(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load every tensor or none, and log how many matched. A mismatch names the differing keys (exit 4)."""
    check_tensors(module.state_dict(), state, source, type(module).__name__)
    module.load_state_dict(state)


def check_tensors(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str, model: str) -> None:
    """Hold the tensors of `source` against those of a model, by key and shape: WeightsError, or a line in the log."""
    wrong = [f"missing {key}" for key in own.keys() - state.keys()]
    wrong += [f"unexpected {key}" for key in state.keys() - own.keys()]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        matched = len(own) - sum(not line.startswith("unexpected") for line in wrong)
        raise WeightsError(f"{source}: {matched} of {len(own)} tensors match {model}: {shown}")
    LOG.info("%s: all %d tensors match %s", source, len(own), model)


def _read_description(path: Path) -> dict[str, Any]:
    """bundle.json with every key of `KEYS`, each of its type."""
    file = path / CONFIG_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file}: cannot be read ({error}); copy the bundle again") from None
    if not isinstance(description, dict):
        raise WeightsError(f"{file}: holds a {type(description).__name__}, expected keys and values")
    if description.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: bundle format {description.get('format')!r}, this eokit reads {FORMAT};"
            " use the eokit that wrote it"
        )
    for key, kinds in KEYS.items():
        if key not in description:
            raise WeightsError(f"{file}: {key!r} is missing; copy the bundle again")
        if not isinstance(description[key], kinds):
            raise WeightsError(f"{file}: {key} = {description[key]!r}, expected {_words(kinds)}; copy the bundle again")
    if description["family"] not in FAMILIES:
        raise WeightsError(f"{path}: unknown model family {description['family']!r}; known: {', '.join(FAMILIES)}")
    return description


def _words(kinds: tuple[type, ...]) -> str:
    return " or ".join({str: "a text", dict: "keys and values", type(None): "null"}[kind] for kind in kinds)


@contextmanager
def _named(path: Path, key: str) -> Iterator[None]:
    """Whatever is wrong with values of `key` in bundle.json becomes a WeightsError that names it."""
    try:
        yield
    except (UsageError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path / CONFIG_FILE}: {key}: {error}") from None
