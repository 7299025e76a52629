"""A small synthetic store whose pixels say their class, so that fine-tuning and probes can learn in seconds."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.data.writer import Entry, LabelSpec, ModalitySpec, StoreSpec
from eokit.models.bundle import Bundle, save_bundle
from eokit.models.registry import build_encoder
from tests.data.stores import BANDS, MemorySource, make_store

CLASSES = ("background", "meadow", "corn", "rare", "void")
SIZE, FIELD, VOID = 16, 8, 4
ENCODER = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.0}


class CropFields(MemorySource):
    """Fields of 8 pixels; a field's values are its class's spectrum with noise. Class "rare" is in fold 5 only."""

    def read(self, entry: Entry, modality: str) -> np.ndarray:
        dates = len(entry.days[modality])
        spectra = np.random.default_rng(3).integers(500, 4000, (len(CLASSES), len(self.spec.modalities[0].bands)))
        noise = _rng(entry, "noise").integers(-300, 300, (dates, spectra.shape[1], SIZE, SIZE))
        return (spectra[fields(entry)].transpose(2, 0, 1)[None] + noise).astype(np.int16)

    def read_labels(self, entry: Entry) -> dict[str, np.ndarray]:
        ids = fields(entry)
        counts = np.bincount(ids.ravel(), minlength=VOID)
        labels = {"kinds": (counts > 0).astype(np.uint8), "main": np.uint8(counts.argmax())}
        ids[0] = VOID
        labels |= {"semantic": ids.astype(np.uint8)}
        return {one.name: np.asarray(labels[one.name]) for one in self.spec.labels}


def fields(entry: Entry) -> np.ndarray:
    """(H, W) class ids."""
    ids = _rng(entry, "fields").integers(0, 4 if entry.fold == 5 else 3, (SIZE // FIELD, SIZE // FIELD))
    return np.kron(ids, np.ones((FIELD, FIELD), int))


def labelled_store(
    path: Path,
    *,
    folds: Sequence[int] = (1, 2, 3, 4, 5) * 3,
    bands: Sequence[str] = BANDS,
    labels: Sequence[str] = ("semantic",),
) -> Store:
    """One patch per entry of `folds`, with 3 to 6 dates.

    labels: of semantic, a map; kinds, the classes that are in it; main, the class with most pixels.
    """
    modality = ModalitySpec("s2", "sentinel-2", tuple(bands), (len(bands), SIZE, SIZE))
    known = (
        LabelSpec("semantic", "uint8", (SIZE, SIZE), CLASSES, ignore=VOID),
        LabelSpec("kinds", "uint8", (VOID,), CLASSES[:VOID]),
        LabelSpec("main", "uint8", (), CLASSES, ignore=VOID),
    )
    layers = tuple(one for one in known if one.name in labels)
    spec = StoreSpec("toy", "A synthetic toy", "CC0", "nobody", True, (modality,), layers)
    entries = [
        Entry(
            id=f"p{number}",
            fold=fold,
            days={"s2": (17_800 + 30 * np.arange(3 + number % 4)).astype(np.int32)},
            crs="EPSG:32631",
            transform=(10.0, 0.0, 600_000.0 + 10 * SIZE * number, 0.0, -10.0, 5_000_000.0),
        )
        for number, fold in enumerate(folds)
    ]
    return make_store(path, CropFields(spec, entries))


def random_bundle(path: Path, store: Store, *, bands: Sequence[str] | None = None, **changes: int) -> Path:
    """A bundle of a small CropSTS with random weights for the store's `s2`; `bands`: an order it claims to want."""
    torch.manual_seed(11)
    preprocessing = make_preprocessing(store, ("s2",), (1, 2, 3))
    if bands is not None:
        preprocessing.inputs["s2"] = replace(preprocessing.inputs["s2"], bands=tuple(bands))
    encoder = build_encoder("cropsts", None, {"modalities": {"s2": len(BANDS)}} | ENCODER | changes)
    provenance = {"recipe": "jepa", "dataset": "toy", "synthetic": True, "folds": [1, 2, 3]}
    return save_bundle(path, Bundle(encoder, preprocessing, provenance=provenance))


def _rng(entry: Entry, what: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{entry.id} {what}".encode()))
