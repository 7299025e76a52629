"""Lays out the pretraining of CropSTS: one store, windows of it, parcels hidden from the student."""

from __future__ import annotations

from typing import cast

import torch

from eokit.data.dataset import DatePolicy, SampleDataset
from eokit.data.find import only_store
from eokit.data.sample import Batch
from eokit.data.statistics import make_preprocessing
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.errors import UsageError
from eokit.models.base import config_from
from eokit.models.cropsts import CropSTS
from eokit.models.registry import build_encoder
from eokit.pretraining.jepa import JEPA, JEPAConfig
from eokit.pretraining.masks import MaskTokens
from eokit.tasks.inputs import choose_split, thin_out
from eokit.tasks.noise import random_batch
from eokit.training.dry_run import PROBE, every_other_token
from eokit.training.plan import (
    Plan,
    PretrainSettings,
    Scale,
    check_length,
    lengthened,
    origin,
    say_folds,
    say_length,
)

PARCELS = "parcel"
"""The label layer that plot-wise masks are made of."""
LOOKED_AT = 8
"""Samples that are looked at to say what masks are made of."""

SCALES = {
    "tiny": Scale(batch_size=16, crop=32, dates=16, steps=300),
    "parcel": Scale(batch_size=32, crop=64, dates=16, epochs=200),
    "paper": Scale(batch_size=32, crop=128, dates=32, epochs=200),
}
"""tiny: minutes on two cores. The others: batch and epochs that suit some thousand samples. A preset that is not here
is fed like `paper`."""


def lay_out(settings: PretrainSettings) -> Plan:
    """Open the store, fill in what the settings leave open, build recipe and data set: mistakes show before work."""
    check_length(settings)
    if settings.data and len(settings.data) > 1:
        raise UsageError(f"cropsts pretrains on one store, {len(settings.data)} are given; anysat takes several")
    if settings.scales or settings.weights:
        raise UsageError("scales and weights are settings of anysat; cropsts has one patch size and one store")
    store = Store.open(settings.data[0] if settings.data else only_store())
    settings, notes = fill_in(settings, store)
    names, folds = settings.modalities or (), settings.folds
    preprocessing = make_preprocessing(store, names, folds)
    torch.manual_seed(settings.loop.seed)
    bands = {name: len(store.modalities[name].bands) for name in names}
    encoder = build_encoder(settings.model, settings.preset, {"modalities": bands} | settings.encoder)
    if settings.crop and settings.crop % encoder.patch_size:
        raise UsageError(f"crop = {settings.crop} px does not divide into patches of {encoder.patch_size} px")
    recipe = JEPA(cast(CropSTS, encoder), config_from(JEPAConfig, settings.jepa, "jepa"))
    masks = MaskTokens(encoder.patch_size)
    dataset = SampleDataset(
        store.path,
        thin_out(store.select(folds), settings.limit),
        preprocessing,
        targets=(PARCELS,) if PARCELS in store.labels else (),
        dates=DatePolicy(settings.dates) if settings.dates else None,
        crop=settings.crop,
        transforms=(FlipRotate(), masks),
        seed=settings.loop.seed,
    )
    hidden = describe_masks(masks, dataset)
    notes.append(f"masks hide {hidden}" + ("" if PARCELS in store.labels else f": the store has no layer {PARCELS!r}"))

    def probe() -> Batch:
        dates, edge = settings.dates or 1, settings.crop or 1  # both are filled in
        masked = every_other_token(PROBE, edge // encoder.patch_size)
        return random_batch(preprocessing, dict.fromkeys(names, dates), (PROBE, edge, edge), {"masked": masked})

    return Plan(settings, (store,), preprocessing, dataset, len(dataset), recipe, hidden, probe, notes)


def fill_in(settings: PretrainSettings, store: Store) -> tuple[PretrainSettings, list[str]]:
    """The settings with every None that matters chosen, and a note for each choice that a person may want to know."""
    notes = []
    scale = SCALES.get(settings.preset, SCALES["paper"])
    folds = settings.folds or choose_split(store.folds.tolist()).train
    if settings.folds is None and (told := say_folds(store, folds)):
        notes.append(told)
    modalities = settings.modalities or (("s2",) if "s2" in store.modalities else tuple(store.modalities)[:1])
    unknown = [name for name in modalities if name not in store.modalities]
    if unknown:
        raise UsageError(f"modality {unknown[0]!r} is not in {store.path}; it has {', '.join(store.modalities)}")
    edge = min(min(store.modalities[name].shape[1:]) for name in modalities)
    samples = len(thin_out(store.select(folds), settings.limit))
    loop = lengthened(settings, scale, samples)
    filled = {
        "data": (store.path.resolve(),),
        "folds": tuple(folds),
        "modalities": tuple(modalities),
        "dates": settings.dates or scale.dates,
        "crop": settings.crop or min(scale.crop, edge),
        "epochs": None,
        "loop": loop,
    }
    notes.append(say_length(loop, samples, origin(store)))
    return settings.model_copy(update=filled), notes


def describe_masks(masks: MaskTokens, dataset: SampleDataset) -> str:
    """What masks hide in the first samples: "parcels", "blocks", or how many of each."""
    kinds = [masks.describe(dataset[number]) for number in range(min(LOOKED_AT, len(dataset)))]
    if len(set(kinds)) == 1:
        return kinds[0]
    return f"parcels (blocks where none fits: {kinds.count('blocks')} of {len(kinds)} samples looked at)"
