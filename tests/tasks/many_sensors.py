"""A small synthetic store with an image ten times as fine as its series, and bundles of AnySat for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from eokit.data.preprocessing import Preprocessing
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.models.bundle import Bundle, save_bundle
from eokit.models.registry import build_encoder
from tests.data.stores import make_source, make_store

SMALL = {"width": 64, "depth": 1, "patch_metres": 40, "modalities": {"s2": 10, "s1-asc": 2, "spot": 3}}


def many_sensors(path: Path, counts=(3, 4, 2, 5), labels=(16, 16), **changes: dict) -> Store:
    """s2 and s1-asc of 16 px of 10 m, spot of 160 px of 1 m; `changes`: modality -> changed fields of its spec."""
    source = make_source(counts, size=16, bands=10, spot=True)
    modalities = tuple(replace(one, **changes.get(one.name, {})) for one in source.spec.modalities)
    source.spec = replace(
        source.spec, modalities=modalities, labels=tuple(replace(one, shape=labels) for one in source.spec.labels)
    )
    return make_store(path, source)


def anysat_bundle(path: Path, store: Store | None = None, **changes) -> Path:
    """A random AnySat; with the statistics of `store`, or open."""
    torch.manual_seed(3)
    encoder = build_encoder("anysat", None, SMALL | changes).eval()
    preprocessing = Preprocessing({})
    if store is not None:
        preprocessing = make_preprocessing(store, [name for name in encoder.modalities if name in store.modalities])
    return save_bundle(path, Bundle(encoder, preprocessing, provenance={"synthetic": True}))
