"""The published AnySat checkpoints: their keys, and how they load.

Called by `eokit models convert` and `eokit models parity`. Keys are those of gastruc/AnySat (MIT licence): `AnySat.pth`
holds the encoder; `AnySat_full.pth` student, predictor and teacher, of which the teacher is what its authors use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eokit.errors import WeightsError
from eokit.models.anysat.blocks import HEAD_WIDTH
from eokit.models.anysat.model import EVERY_SENSOR, PUBLISHED, AnySat, AnySatConfig, Observed
from eokit.models.anysat.presets import PRESETS
from eokit.models.anysat.sensors import SENSORS
from eokit.models.base import Features
from eokit.models.bundle import check_tensors
from eokit.models.parity import stand_in
from eokit.models.published import Published

_PREFIXES = ("target_encoder.", "model.encoder.", "model.", "")
"""What may stand before the encoder's keys: the teacher, else the student, the hub's wrapper, or nothing."""

_OF_PREDICTOR = ("predictor.", "masked_token")
"""How keys begin that belong to pretraining alone."""

_PROJECTOR = (
    (r"cells", "patch_embed"),
    (r"layers\.(\d)\.linear", lambda at: f"patch_embed.inconv.{4 * int(at[1])}"),
    (r"layers\.(\d)\.norm", lambda at: f"patch_embed.inconv.{4 * int(at[1]) + 1}"),
    (r"layers", "mlp"),
    (r"series_norm", "patch_embed.in_norm"),
    (r"queries", "patch_embed.attention_heads.Q"),
    (r"keys", "patch_embed.attention_heads.fc1_k"),
    (r"output\.linear", "patch_embed.mlp.0"),
    (r"output\.norm", "patch_embed.mlp.1"),
    (r"output_norm", "patch_embed.out_norm"),
    (r"missing", "pad_parameter"),
)
_BLOCK = (
    (r"attention\.qkv", "attn.qkv"),
    (r"attention\.projection", "attn.proj"),
    (r"attention\.bias\.table", "attn.rpe_k.lookup_table_weight"),
    (r"mlp\.0", "mlp.fc1"),
    (r"mlp\.2", "mlp.fc2"),
    (r"query", "attn.q_learned"),
    (r"keys", "attn.wk"),
    (r"values", "attn.wv"),
    (r"bias\.table", "attn.rpe_k.lookup_table_weight"),
    (r"projection", "attn.proj"),
    (r"norm", "norm"),
)
"""The beginning of a key of ours, within its part, and what stands there in theirs."""


def official_key(ours: str, depth: int) -> str:
    """The published name of a parameter of an AnySat with `depth` blocks."""
    if at := re.fullmatch(r"projectors\.([^.]+)\.(.+)", ours):
        return f"projector_{at[1]}." + _renamed(at[2], _PROJECTOR)
    if at := re.fullmatch(r"spatial\.blocks\.(\d+)\.(.+)", ours):
        return f"spatial_encoder.predictor_blocks.{at[1]}." + _renamed(at[2], _BLOCK)
    if at := re.fullmatch(r"combiner\.blocks\.(\d+)\.(.+)", ours):
        return f"blocks.{at[1]}." + _renamed(at[2], _BLOCK)
    if at := re.fullmatch(r"combiner\.cross\.(.+)", ours):
        return f"blocks.{depth}." + _renamed(at[1], _BLOCK)
    rest = {"spatial.token": "spatial_encoder.cls_token", "combiner.token": "cls_token"}
    return rest.get(ours) or ours.replace("spatial.norm", "spatial_encoder.predictor_norm")


def _renamed(key: str, rules: Any) -> str:
    for pattern, theirs in rules:
        if re.match(rf"{pattern}(?=\.|\d|$)", key):
            return re.sub(rf"^{pattern}", theirs, key, count=1)
    raise AssertionError(f"no rule for {key}")


def encoder_tensors(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The encoder's tensors of a published checkpoint by their bare keys, whatever stands before them.

    state: what the file holds, with or without a `state_dict` around. Tensors that stand twice must be equal. Raises
    WeightsError where no encoder is found.
    """
    state = state.get("state_dict", state)
    prefix = _prefix(state, source)
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    twice = [key for key in state if prefix == "model." and not key.startswith(prefix)]  # the hub's wrapper does that
    for key in twice:
        if key not in tensors or not state[key].equal(tensors[key]):
            raise WeightsError(f"{source}: {key} differs from {prefix}{key}; both name one tensor")
    return {key: value for key, value in tensors.items() if not key.startswith(_OF_PREDICTOR)}


def _prefix(state: Mapping[str, Any], source: str) -> str:
    """What stands before the keys of the encoder that is taken."""
    prefix = next((one for one in _PREFIXES if f"{one}cls_token" in state), None)
    if prefix is None:
        shown = ", ".join(sorted(map(str, state))[:3]) or "nothing"
        raise WeightsError(f"{source}: holds no AnySat encoder: no key cls_token among {len(state)} ({shown}, ...)")
    return prefix


def _left_out(state: Mapping[str, Any], source: str) -> dict[str, int]:
    """Owner -> how many tensors of a checkpoint are not the encoder's that is taken."""
    prefix = _prefix(state, source)
    counts: dict[str, int] = {}
    for key in state:
        rest = key.removeprefix(prefix).removeprefix("model.")
        if rest.startswith(_OF_PREDICTOR):
            owner = "predictor"
        elif key.startswith(prefix):
            continue
        elif key.startswith("model.encoder."):
            owner = "student"
        else:
            owner = "duplicates" if prefix == "model." else "others"
        counts[owner] = counts.get(owner, 0) + 1
    return dict(sorted(counts.items(), reverse=True))


def from_published(state: Mapping[str, Any], source: str) -> Published:
    """The encoder of a published file with its whole number of tensors; what `eokit models convert` calls."""
    encoder = from_official(state, source)
    return Published(encoder, len(encoder.state_dict()), _left_out(state.get("state_dict", state), source))


def from_official(state: Mapping[str, Any], source: str, **config: Any) -> AnySat:
    """The encoder that a published checkpoint holds; WeightsError (exit 4) with the keys that differ.

    config: values of AnySatConfig over those with which the published weights were trained.
    """
    tensors = encoder_tensors(state, source)
    depth = _depth(tensors)
    width = tensors["cls_token"].shape[-1] if tensors["cls_token"].ndim else 0
    if not depth or not width or width % HEAD_WIDTH:
        raise WeightsError(f"{source}: holds {depth} blocks of width {width}, expected an AnySat such as 6 of 768")
    encoder = AnySat(AnySatConfig(**{"width": width, "depth": depth, **PUBLISHED, **config}))
    load_official(encoder, tensors, source)
    return encoder


def _depth(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks a checkpoint has before the crossing one, which is the last and has no `attn.qkv`."""
    last = max((int(at[1]) for key in tensors if (at := re.match(r"blocks\.(\d+)\.", key))), default=0)
    crossing_is_missing = any(key.startswith(f"blocks.{last}.attn.qkv.") for key in tensors)
    return last + crossing_is_missing


def load_official(encoder: AnySat, tensors: Mapping[str, Tensor], source: str) -> None:
    """Every tensor under its published name into `encoder`, or none; a mismatch names published keys."""
    check_tensors(as_published(encoder), tensors, source, "AnySat")
    own, depth = encoder.state_dict(), encoder.config.depth
    encoder.load_state_dict({key: tensors[official_key(key, depth)].reshape(x.shape) for key, x in own.items()})


def as_published(encoder: AnySat) -> dict[str, Tensor]:
    """The encoder's tensors, which share its memory, under their published names and in their published shapes."""
    found = {}
    for ours, x in encoder.state_dict().items():
        key = official_key(ours, encoder.config.depth)
        ones = next((count for end, count in _ONES.items() if key.endswith(end)), 0)
        found[key] = x[(None,) * ones]
    return found


def stand_in_encoder(size: str, **config: Any) -> AnySat:
    """The encoder of a published size under the stand-in weights of the recorded cases."""
    encoder = AnySat(AnySatConfig(**{**PRESETS[size], **config}))
    for key, x in as_published(encoder).items():
        x.copy_(stand_in(key, tuple(x.shape)))
    return encoder.eval()


@torch.inference_mode()
def run_case(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[str, Tensor, np.ndarray]:
    """A recorded case of the published hub module: what it is, eokit's output, the recorded output."""
    size, metres, output = entry["size"], entry["patch_size_m"], entry["output"]
    names = [name for name in entry["modalities"] if not name.endswith("_dates")]
    encoder = stand_in_encoder(size, parity="official", modalities={name: EVERY_SENSOR[name] for name in names})
    observed = {}
    for name in names:
        values = torch.from_numpy(arrays[f"input_{name}"])
        image = SENSORS[name].is_image
        dates = torch.zeros(len(values), 1) if image else torch.from_numpy(arrays[f"input_{name}_dates"])
        observed[name] = Observed(SENSORS[name], values[:, None] if image else values, dates)
    dense = (entry["output_modality"] or names[0]) if output == "dense" else None
    features = encoder.encode(observed, metres, dense)
    about = f"{size}, {' '.join(names)}, patches of {metres} m, {output}"
    return about, _OUTPUTS[output](features), arrays["output"]


def _maps(maps: Tensor | None) -> Tensor:
    assert maps is not None
    return maps.movedim(1, -1)


_OUTPUTS: dict[str, Callable[[Features], Tensor]] = {
    "tile": lambda features: features.tile,
    "patch": lambda features: _maps(features.patch),
    "all": lambda features: torch.cat([features.tile[:, None], _maps(features.patch).flatten(1, 2)], 1),
    "dense": lambda features: _maps(features.dense),
}

_ONES = {"cls_token": 2, "q_learned": 2, "lookup_table_weight": 1}
"""Leading dimensions of length 1 that a published tensor has before ours, by the end of its key."""
