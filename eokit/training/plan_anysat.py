"""Lays out the pretraining of AnySat: any stores, whatever sensors they hold, each batch from one at one patch size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from eokit.data.collate import collate
from eokit.data.dataset import DatePolicy, SampleDataset
from eokit.data.mixture import Mixture, Part, StepDraw
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.data.statistics import common_preprocessing
from eokit.data.store import Store
from eokit.data.transforms import FlipRotate
from eokit.errors import DataError, UsageError
from eokit.models.anysat.model import AnySat
from eokit.models.anysat.sensors import CELL, AnySatSensor, sensor_of
from eokit.models.base import config_from
from eokit.models.registry import build_encoder
from eokit.pretraining.anysat import AnySatJEPA, AnySatJEPAConfig
from eokit.tasks.inputs import choose_split, thin_out
from eokit.training.dry_run import PROBE
from eokit.training.plan import (
    Plan,
    PretrainSettings,
    Scale,
    check_length,
    lengthened,
    origin,
    say_folds,
    say_length,
    words,
)

SCALES = {
    "tiny": Scale(batch_size=8, crop=16, dates=8, steps=300, lr=1e-4),
    "small": Scale(batch_size=32, crop=64, dates=20, epochs=200, lr=5e-5),
    "base": Scale(batch_size=32, crop=128, dates=20, epochs=200, lr=5e-5),
}
"""tiny: for two cores, at a rate at which its features were seen to spread again (docs/results-anysat.md). The others
are fed the paper's 20 dates at the paper's rate; of a store whose samples are larger, a window."""

PATCHES = (10, 20, 30, 40, 80, 160)
"""Patch sizes in metres that a run draws from: the paper's."""
GRIDS = (3, 32)
"""Fewest and most patches along a tile, those of the paper's data sets and patch sizes."""


def lay_out(settings: PretrainSettings) -> Plan:
    """Open the stores, fill in what the settings leave open, build recipe and data set: mistakes show before work."""
    check_length(settings)
    stores, notes = _stores(settings)
    _check_names(stores, settings.modalities or ())
    modalities = [_modalities(store, settings.modalities) for store in stores]
    folds = [settings.folds or choose_split(store.folds.tolist()).train for store in stores]
    settings, told = _fill_in(settings, stores, folds)
    preprocessings = common_preprocessing(stores, [list(names) for names in modalities], folds)
    torch.manual_seed(settings.loop.seed)
    parts = [
        _part(settings, number, store, preprocessing, tuple(names.values()), chosen)
        for number, (store, preprocessing, names, chosen) in enumerate(
            zip(stores, preprocessings, modalities, folds, strict=True)
        )
    ]
    config = {"modalities": _bands(modalities), "patch_metres": usual_patch(parts)} | settings.encoder
    encoder = build_encoder("anysat", settings.preset, config)
    recipe = AnySatJEPA(cast(AnySat, encoder), config_from(AnySatJEPAConfig, settings.jepa, "jepa"))
    notes += told + [
        _say_part(store, part, names) for store, part, names in zip(stores, parts, modalities, strict=True)
    ]
    mixture = Mixture(parts, settings.loop.seed)
    shared = Preprocessing.together(preprocessings)

    def probe() -> Batch:
        samples = [mixture[StepDraw(slot, slot % len(mixture.parts[0].dataset), 0)] for slot in range(PROBE)]
        return collate(samples)

    return Plan(settings, stores, shared, mixture, len(mixture), recipe, "blocks", probe, notes)


def _stores(settings: PretrainSettings) -> tuple[tuple[Store, ...], list[str]]:
    """The stores named, or every one in ./data that holds a sensor AnySat knows, and a note on which these are."""
    if settings.data:
        return tuple(Store.open(path) for path in settings.data), []
    folder = Path("data")
    there = [Store.open(path) for path in sorted(folder.glob("*.zarr")) if path.is_dir()]
    known = tuple(store for store in there if any(_sensor(store, name) for name in store.modalities))
    if not known:
        held = f"{len(there)} stores without a sensor that AnySat knows" if there else "no store"
        raise UsageError(f"{folder.absolute()} holds {held}: name stores with --data, or make one with eokit prepare")
    return known, [f"pretraining on {', '.join(str(store.path) for store in known)}"]


def _sensor(store: Store, name: str) -> AnySatSensor | None:
    try:
        return sensor_of(name, len(store.modalities[name].bands))
    except UsageError:
        return None


def _check_names(stores: Sequence[Store], wanted: Sequence[str]) -> None:
    """Refuse a modality that is in no store: a mistyped one would be left out in silence."""
    there = sorted({name for store in stores for name in store.modalities})
    if lost := [name for name in wanted if name not in there]:
        raise UsageError(f"--modalities: no store has {', '.join(lost)}; they have {', '.join(there)}")


def _modalities(store: Store, wanted: tuple[str, ...] | None) -> dict[str, AnySatSensor]:
    """The modalities of a store that AnySat takes, of those that are wanted, each as the sensor that it is."""
    found = {name: sensor for name in store.modalities if (sensor := _sensor(store, name))}
    if wanted is not None:
        found = {name: sensor for name, sensor in found.items() if name in wanted}
    if not found:
        asked = "of " + ", ".join(wanted) if wanted else "that AnySat knows"
        held = ", ".join(f"{one.name} ({len(one.bands)} bands)" for one in store.modalities.values())
        raise DataError(f"{store.path} has no modality {asked}; it has {held}")
    return found


def _bands(modalities: list[dict[str, AnySatSensor]]) -> dict[str, int]:
    """Bands of every modality. One that is two sensors in two stores stands a second time under its sensor's name."""
    bands: dict[str, int] = {}
    for names in modalities:
        for name, sensor in names.items():
            count = len(sensor.bands)
            bands[name if bands.get(name, count) == count else sensor.name] = count
    return bands


def _fill_in(
    settings: PretrainSettings, stores: tuple[Store, ...], folds: list[tuple[int, ...]]
) -> tuple[PretrainSettings, list[str]]:
    """The settings with every None that matters chosen, and notes on the choices."""
    scale = SCALES.get(settings.preset, SCALES["base"])
    samples = sum(
        len(thin_out(store.select(chosen), settings.limit)) for store, chosen in zip(stores, folds, strict=True)
    )
    if settings.weights is not None and len(settings.weights) != len(stores):
        raise UsageError(f"weights has {len(settings.weights)} numbers, expected one for each of {len(stores)} stores")
    loop = lengthened(settings, scale, samples)
    filled = {
        "data": tuple(store.path.resolve() for store in stores),
        "dates": settings.dates or scale.dates,
        "crop": settings.crop or scale.crop,
        "epochs": None,
        "loop": loop,
    }
    notes = [say_length(loop, samples, " and ".join(origin(store) for store in stores))]
    for store, chosen in zip(stores, folds, strict=True):
        if settings.folds is None and (told := say_folds(store, chosen)):
            notes.append(f"{store.dataset}: {told}")
    return settings.model_copy(update=filled), notes


def _part(
    settings: PretrainSettings,
    number: int,
    store: Store,
    preprocessing: Preprocessing,
    sensors: tuple[AnySatSensor, ...],
    folds: tuple[int, ...],
) -> Part:
    """One store as a part of the mixture."""
    first = store.modalities[next(iter(preprocessing.inputs))]
    edge = min(first.shape[1:]) * first.gsd  # metres
    window = min(edge, (settings.crop or 1) * CELL)
    chosen = thin_out(store.select(folds), settings.limit)
    dataset = SampleDataset(
        store.path,
        chosen,
        preprocessing,
        dates=DatePolicy(settings.dates or 1),
        crop=None if math.isclose(window, edge) else round(window / first.gsd),
        transforms=(FlipRotate(),),
        seed=settings.loop.seed + number,
    )
    weight = settings.weights[number] if settings.weights else math.sqrt(max(len(chosen), 1))
    return Part(dataset, weight, patch_sizes(round(window), sensors, settings.scales, str(store.path)))


def patch_sizes(
    window: int, sensors: tuple[AnySatSensor, ...], wanted: tuple[int, ...] | None, source: str
) -> tuple[int, ...]:
    """Patch sizes in metres that cut `window` metres into whole patches of whole sub-patches of all sensors.

    Of `wanted` those that give two or more along it, or of `PATCHES` those that give 3 to 32. UsageError where there is
    none.
    """
    whole = [metres for metres in wanted or PATCHES if window % metres == 0 and _fits(metres, sensors)]
    fitting = [metres for metres in whole if metres < window]  # of one patch alone there is nothing to predict
    if wanted is None:
        fitting = [metres for metres in fitting if GRIDS[0] <= window // metres <= GRIDS[1]]
    if not fitting:
        names = ", ".join(sensor.name for sensor in sensors)
        raise UsageError(
            f"{source}: no patch size of {words(wanted or PATCHES)} m cuts {window} m of {names} into several whole"
            " patches;"
            " set scales, or crop"
        )
    return tuple(fitting)


def usual_patch(parts: Sequence[Part]) -> int:
    """The patch size in metres of the bundle, where a verb is told no other: the middle one of those that most fit."""
    counts = Counter(metres for part in parts for metres in part.scales)
    most = max(counts.values())
    fitting = sorted(metres for metres, count in counts.items() if count == most)
    return fitting[len(fitting) // 2]


def _fits(metres: int, sensors: tuple[AnySatSensor, ...]) -> bool:
    try:
        return all(sensor.side(metres) > 0 for sensor in sensors)
    except UsageError:
        return False


def _say_part(store: Store, part: Part, names: dict[str, AnySatSensor]) -> str:
    shown = ", ".join(name if name == sensor.name else f"{name} as {sensor.name}" for name, sensor in names.items())
    window = f", windows of {part.dataset.crop} px" if part.dataset.crop else ""
    return f"{store.dataset}: {shown}{window}, patches of {words(part.scales)} m, weight {part.weight:.3g}"
