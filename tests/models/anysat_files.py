"""Random AnySats in the layouts in which the published files hold them."""

from __future__ import annotations

import torch

from eokit.models.anysat.official import official_key


def published(encoder) -> dict[str, torch.Tensor]:
    """The encoder's tensors as the published file has them."""
    ones = {"cls_token": 2, "q_learned": 2, "lookup_table_weight": 1}
    found = {}
    for ours, x in encoder.state_dict().items():
        key = official_key(ours, encoder.config.depth)
        count = next((n for end, n in ones.items() if key.endswith(end)), 0)
        found[key] = x.reshape((*[1] * count, *x.shape)).clone()
    return found


def bare(state):
    return {"state_dict": state}


def wrapped(state):
    twice = {key: x for key, x in state.items() if key.startswith("spatial_encoder.")}
    return {f"model.{key}": x for key, x in state.items()} | twice


def full(state):
    noise = {key: torch.randn_like(x) for key, x in state.items()}
    rest = {"model.predictor.norm.weight": torch.ones(4), "model.masked_token": torch.zeros(4)}
    teacher = {f"target_encoder.{key}": x for key, x in state.items()}
    return {"state_dict": {f"model.encoder.{key}": x for key, x in noise.items()} | teacher | rest}
