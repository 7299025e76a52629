"""What a labelled task takes from a store: matching inputs, a label layer, folds, batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eokit.data.folds import Split
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.data.spec import LabelSpec, ModalitySpec
from eokit.data.statistics import make_preprocessing
from eokit.errors import DataError, EokitError, UsageError, WeightsError
from eokit.models.base import Encoder, Expected
from eokit.models.bundle import OpenPreprocessing
from eokit.progress import Progress

if TYPE_CHECKING:
    from eokit.data.store import Store


MAP = "semantic"
"""The label layer that is taken where none is named."""


@dataclass(frozen=True)
class Reading:
    """How a whole data set is gone through: batch size, loader processes, device, and whether progress is shown."""

    batch_size: int = 8
    workers: int = 0
    device: torch.device | str = "cpu"
    quiet: bool = False


def choose_split(
    present: Iterable[int],
    train: Sequence[int] | None = None,
    validation: Sequence[int] | None = None,
    test: Sequence[int] | None = None,
) -> Split:
    """The folds given, and of the free ones: the last to test, the one before it to validation, the rest to train.

    With PASTIS's five folds that is 1-3 / 4 / 5. Training goes first: a single fold is trained on, two leave none to
    validate on. A fold given twice is a UsageError.
    """
    given = {"train": train or (), "validation": validation or (), "test": test or ()}
    for one, other in combinations(given, 2):
        both = sorted(set(given[one]) & set(given[other]))
        if both:
            raise UsageError(f"fold {both[0]} is both a {one} and a {other} fold; give it to one of them")
    free = sorted(set(map(int, present)) - set().union(*given.values()))
    spare = 0 if train is not None else 1  # how many must be left over to train on
    if test is None:
        test = (free.pop(),) if len(free) > spare else ()
    if validation is None:
        validation = (free.pop(),) if len(free) > spare else ()
    return Split(tuple(free) if train is None else tuple(train), tuple(validation), tuple(test))


def thin_out(numbers: np.ndarray, limit: int | None) -> np.ndarray:
    """At most `limit` of the sample numbers, evenly spaced: neighbours in a store may be neighbours on the ground."""
    if limit is None or len(numbers) <= limit:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, limit).round().astype(int)]


def say_split(split: Split) -> str:
    """A split for people: "train 1 2 3, validation 4, test 5"."""
    return ", ".join(f"{name} {' '.join(map(str, folds)) or '-'}" for name, folds in split._asdict().items())


def match_inputs(
    preprocessing: Preprocessing, store: Store, source: str, modalities: Sequence[str] | None = None
) -> tuple[Preprocessing, list[str]]:
    """The inputs of a model that `store` has, read as this store keeps them, and a note on those that it lacks.

    modalities: only these, all of which must be there; None: all.
    Band order and normalisation stay the model's; scale and nodata are how the store writes numbers. Other bands or
    sensors, or no modality in common, are a WeightsError. An open preprocessing is filled by `own_inputs`.
    """
    if isinstance(preprocessing, OpenPreprocessing):
        matched, notes = own_inputs(preprocessing.encoder, store, source, modalities)
        by = f"{', '.join(matched.inputs)}: standardised by the statistics of {store.path} over all its folds"
        return matched, [*notes, f"{by}, as {source} has none"]
    common = [name for name in preprocessing.modalities if name in store.modalities]
    if not common:
        raise WeightsError(
            f"{source} takes {', '.join(preprocessing.inputs)}, {store.path} has {', '.join(store.modalities)}:"
            " no modality in common"
        )
    inputs = {}
    for name in common:
        spec = store.modalities[name]
        one = preprocessing.fitting(name, sensor=spec.sensor, bands=spec.bands, source=str(store.path))
        inputs[name] = replace(one, scale=spec.scale, nodata=spec.nodata)
    missing = [name for name in preprocessing.modalities if name not in common]
    matched = Preprocessing(inputs)
    notes = [f"{', '.join(missing)}: not in {store.path}, left out"] if missing else []
    return (matched if modalities is None else only(matched, modalities)), notes


def own_inputs(
    encoder: Encoder, store: Store, source: str, modalities: Sequence[str] | None = None
) -> tuple[Preprocessing, list[str]]:
    """Every modality of `store` that `encoder` takes, or `modalities`, standardised by the store's own statistics.

    Bands or pixels of another order or size than the weights expect, or nothing to take, are a WeightsError.
    """
    taken = [name for name, spec in store.modalities.items() if encoder.takes(name, len(spec.bands))]
    if not taken:
        takes = ", ".join(f"{name} ({bands})" for name, bands in encoder.config.modalities.items())
        there = ", ".join(f"{name} ({len(spec.bands)})" for name, spec in store.modalities.items())
        raise WeightsError(
            f"{source} takes (bands) {takes}, {store.path} has {there}: no modality of so many bands in common"
        )
    strange = [name for name in store.modalities if name not in taken]
    notes = [f"{', '.join(strange)}: not taken by the model, left out"] if strange else []
    if modalities is not None:
        _check_among(modalities, taken)
        taken, notes = list(modalities), []
    for name in taken:
        spec = store.modalities[name]
        notes += _differences(spec, encoder.expected(name, len(spec.bands)), str(store.path))
    return make_preprocessing(store, taken), notes


def _differences(spec: ModalitySpec, expected: Expected | None, where: str) -> list[str]:
    """A note where bands only have other names; a band in another place, or other pixels, are a WeightsError."""
    if expected is None:
        return []
    ours, theirs = " ".join(spec.bands), " ".join(expected.bands)
    places = {band: place for place, band in enumerate(expected.bands)}
    if any(places.get(band, place) != place for place, band in enumerate(spec.bands)):
        raise WeightsError(f"{where}: {spec.name} holds bands {ours}, the weights expect {theirs} in this order")
    if not math.isclose(spec.gsd, expected.gsd, rel_tol=0.01):
        raise WeightsError(
            f"{where}: {spec.name} has pixels of {spec.gsd:g} m, the weights expect {expected.gsd:g} m; resample it"
        )
    return [] if ours == theirs else [f"{spec.name}: bands {ours} are read as {theirs}"]


def only(preprocessing: Preprocessing, names: Sequence[str]) -> Preprocessing:
    """The inputs called `names`; one that is not there is a UsageError."""
    _check_among(names, list(preprocessing.inputs))
    return Preprocessing({name: preprocessing.inputs[name] for name in names})


def _check_among(names: Sequence[str], there: Sequence[str]) -> None:
    if missing := [name for name in names if name not in there]:
        raise UsageError(f"modality {missing[0]!r} is not among {', '.join(there)}")


def label_layer(store: Store, name: str | None = None) -> tuple[LabelSpec, list[str]]:
    """The label layer called `name`, or if None the one that there is, and a note where that had to be chosen.

    None: `semantic`, else the only layer with classes; several are a UsageError that lists them. A store without the
    layer, or a layer without class names, is a DataError.
    """
    if name is None and MAP not in store.labels:
        known = [one.name for one in store.labels.values() if one.classes is not None]
        if len(known) > 1:
            raise UsageError(f"{store.path} has several label layers: {', '.join(known)}; choose one with --label")
        if known:
            return store.labels[known[0]], [f"labels: {known[0]}, the only layer of {store.path} with classes"]
    name = name or MAP
    spec: LabelSpec | None = store.labels.get(name)
    if spec is None:
        there = ", ".join(store.labels) or "none"
        raise DataError(f"{store.path} has no label layer {name!r} (it has: {there}); prepare the data with its labels")
    if spec.classes is None:
        raise DataError(f"{store.path}: label layer {name!r} has no class names, expected one per id")
    return spec, []


def batches(dataset: Any, reading: Reading, what: str | None = None) -> Iterator[Batch]:
    """All samples of `dataset` in order, collated and on the device, with progress if `what` names the work."""
    from torch.utils.data import DataLoader

    from eokit.data.collate import collate

    # Forking a process with threads can hang, so loader processes come from a fork server.
    context = "forkserver" if reading.workers else None
    loader = DataLoader(
        dataset, reading.batch_size, collate_fn=collate, num_workers=reading.workers, multiprocessing_context=context
    )
    with Progress(what or "", len(dataset), quiet=reading.quiet or what is None) as bar:
        try:
            for batch in loader:
                yield batch.to(reading.device)
                bar.advance(len(batch))
        except EokitError as error:
            raise one_line(error) from None


def one_line(error: EokitError) -> EokitError:
    """An error of a loader process as it was raised.

    torch puts the whole traceback into its message, which ends "module.Class: message".
    """
    kind = type(error)
    return kind(str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2])


def majority(labels: Tensor, patch_size: int, n_classes: int, ignore: int | None) -> Tensor:
    """The label of each token: the most frequent non-void class of its pixels, ties to the lowest id, -1 if all void.

    labels: (B, H, W) ids. Returns (B, h, w) int64, h = H / patch size.
    """
    b, height, width = labels.shape
    if height % patch_size or width % patch_size:
        raise DataError(f"labels of {height} x {width} pixels do not divide into patches of {patch_size}")
    blocks = labels.reshape(b, height // patch_size, patch_size, width // patch_size, patch_size).transpose(2, 3)
    blocks = blocks.flatten(3).long()  # (B, h, w, pixels of a token)
    known = torch.ones_like(blocks, dtype=torch.bool) if ignore is None else blocks != ignore
    counts = torch.zeros(*blocks.shape[:3], n_classes, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(-1, blocks.masked_fill(~known, 0), known.long())
    most = counts.amax(-1, keepdim=True)
    ids = torch.arange(n_classes, device=labels.device).expand_as(counts)
    lowest = ids.masked_fill(counts != most, n_classes).amin(-1)
    return lowest.masked_fill(most[..., 0] == 0, -1)
