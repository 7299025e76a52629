"""The commands that a verb proposes at its end: only those that can work with the store at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eokit.data.store import Store
    from eokit.training.finetune import FinetuneResult


def after_pretraining(bundle: Path, run: Path, data: Path) -> str:
    """Scores and fine-tuning where the store has labels, and folds to score on; else its features."""
    from eokit.data.store import Store

    store = Store.open(data)
    if told := _uncut(bundle, store):
        return f"next: a store with larger or whole samples: {told}, so the other verbs cannot read them whole"
    label, metres = _label_option(store), _patch_option(bundle, store)
    if label is None:
        return f"next: eokit embed {bundle} {data} features.zarr{metres} (the store has no labels to learn or score)"
    finetune = f"eokit finetune {run} --data {data}{label}{metres}"
    if len(set(store.folds.tolist())) < 2:
        return f"next: {finetune} (the store has one fold: none is left to score on)"
    return f"next: eokit evaluate {bundle} --data {data}{label}{metres}; {finetune}"


def after_finetuning(result: FinetuneResult, data: Path) -> str:
    """Scores where a fold is left for them; else a map, where the labels are one."""
    if result.split.test:
        return f"next: eokit evaluate {result.bundle} --data {data}"
    other = f"no fold of {data} is left to score on; evaluate on another store"
    return f"next: eokit predict {result.bundle} {data} map.tif ({other})" if result.metric == "miou" else other


def _label_option(store: Store) -> str | None:
    """What names the label layer where that is needed; None where there is none with classes."""
    from eokit.errors import DataError, UsageError
    from eokit.tasks.inputs import label_layer

    try:
        label_layer(store)
    except DataError:
        return None
    except UsageError:  # several: any will do as an example
        return f" --label {next(name for name, one in store.labels.items() if one.classes is not None)}"
    return ""


def _uncut(bundle: Path, store: Store) -> str | None:
    """Why samples are not a whole number of the model's patches of pixels, where they are not."""
    from eokit.models.bundle import load_bundle

    loaded = load_bundle(bundle)
    spec = next((one for name, one in store.modalities.items() if name in loaded.preprocessing.modalities), None)
    patch = 1 if "patch_metres" in loaded.encoder.choices else loaded.encoder.patch_size
    if spec is None or not any(side % patch for side in spec.shape[1:]):
        return None
    height, width = spec.shape[1:]
    return f"images of {height} x {width} px do not divide into patches of {patch} px"


def _patch_option(bundle: Path, store: Store) -> str:
    """The patch size that fits the store, where the bundle's own does not: the one nearest to that."""
    from eokit.errors import EokitError
    from eokit.models.bundle import load_bundle
    from eokit.tasks.grid import fitting_patches
    from eokit.tasks.inputs import match_inputs

    loaded = load_bundle(bundle)
    kept = loaded.encoder.config_dict().get("patch_metres")
    if kept is None:
        return ""
    try:
        inputs, _ = match_inputs(loaded.preprocessing, store, str(bundle))
    except EokitError:  # which the next verb explains
        return ""
    fitting = fitting_patches(loaded.encoder, store, inputs)
    if not fitting or kept in fitting:
        return ""
    nearest = min(fitting, key=lambda metres: abs(metres - kept))
    return f" --patch-metres {nearest}"
