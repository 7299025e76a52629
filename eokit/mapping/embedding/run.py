"""`eokit embed`: features of every sample of a store, written so that an interrupted run can go on.

    samples --FeatureReader--> features --Coding--> stored numbers --Target--> Zarr, GeoParquet or GeoTIFFs

Memory holds a batch. What is finished is counted in a ledger beside the output, which gets its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eokit import __version__
from eokit.config import Settings
from eokit.data.find import only_store
from eokit.data.store import Store
from eokit.errors import DataError, Interrupted, UsageError
from eokit.files import put_in_place, writing
from eokit.mapping.embedding.coding import Coding, Dtype, Loss, scale_of
from eokit.mapping.embedding.cog_target import CogFolder, read_cog_facts
from eokit.mapping.embedding.encode import FeatureReader, Level, choices_of
from eokit.mapping.embedding.layout import KIND, Format, Layout, Target, place_of
from eokit.mapping.embedding.parquet_target import ParquetVectors, read_parquet_facts
from eokit.mapping.embedding.zarr_target import ZarrMaps, ZarrVectors, read_zarr_facts
from eokit.mapping.inference import bundle_digest
from eokit.mapping.ledger import Ledger, partial_folder
from eokit.mapping.patches import store_digest
from eokit.memory import peak_bytes
from eokit.models.base import TileOf
from eokit.models.bundle import Bundle, OpenPreprocessing, find_bundle, load_bundle, newest_bundle
from eokit.nn.device import pick_device
from eokit.tasks.grid import patch_metres_of
from eokit.tasks.inputs import Reading, match_inputs, thin_out

CALIBRATION = 64
"""Samples, evenly spaced, whose largest absolute values make the steps of int8."""
TARGETS: dict[tuple[Format, bool], Callable[[Path, Layout], Target]] = {
    ("zarr", True): ZarrMaps,
    ("zarr", False): ZarrVectors,
    ("geoparquet", False): ParquetVectors,
    ("cog", True): CogFolder,
}
"""By format, and whether features are maps."""
OF_FILLING = ("unseen_share", "error", "clipped_share", "calibrated_on")
"""What is known only when all samples are encoded."""


class EmbedSettings(Settings):
    """Everything that `eokit embed` can be told."""

    bundle: Path | None = Field(default=None, description="null: the newest in ./runs")
    store: Path = Field(default_factory=only_store, description="the store")
    out: Path | None = Field(default=None, description="null: the store's name with -<level>.zarr, in this folder")
    level: Level | None = Field(default=None, description="null: tile for GeoParquet, else patch")
    modality: str | None = Field(default=None, description="level pixel: whose sub-patches; null: the first")
    patch_metres: int | None = Field(default=None, gt=0, description="edge of a patch; null: as the bundle keeps")
    tile_of: TileOf | None = Field(default=None, description="level tile: of what; null: as the bundle keeps")
    format: Format | None = Field(default=None, description="null: by the name of out")
    dtype: Dtype = "float32"
    folds: tuple[int, ...] | None = None
    modalities: tuple[str, ...] | None = Field(default=None, description="null: all that model and store share")
    dates: int | None = Field(default=None, gt=0, description="at most so many dates of each modality; null: all")
    limit: int | None = Field(default=None, gt=0, description="only the first samples")
    batch_size: int = Field(default=8, gt=0)
    workers: int = Field(default=0, ge=0)
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class EmbedPlan:
    """An embedding laid out. numbers: of the samples. shape: of the features of one. facts: what the output says."""

    settings: EmbedSettings
    reader: FeatureReader
    store: Store
    numbers: np.ndarray
    out: Path
    format: Format
    shape: tuple[int, ...]
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def layout(self, coding: Coding) -> Layout:
        """What is written, once the steps of the numbers are known."""
        grid = (self.shape[1], self.shape[2]) if len(self.shape) == 3 else (1, 1)
        places = tuple(place_of(self.store, int(number), grid) for number in self.numbers)
        return Layout(places, self.shape, coding, self.facts)


@dataclass(frozen=True)
class Outlined:
    """Where features go and how many there are. shape: of a sample's."""

    path: Path
    format: Format
    level: Level
    dtype: Dtype
    samples: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EmbedResult(Outlined):
    """What was written. error: root mean square of what storing changed, over that of the values, None for float32.

    clipped_share: of the numbers, too large for the steps that `calibrated_on` samples gave. unseen_share: of the
    vectors. seconds: None where all was there already.
    """

    stored_bytes: int
    unseen_share: float
    error: float | None
    clipped_share: float | None
    calibrated_on: int | None
    seconds: float | None
    synthetic: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EmbedCost(Outlined):
    """What `embed` would write and take. seconds: of all samples, from a second batch of the first ones."""

    uncompressed_bytes: int
    memory_bytes: int
    seconds: float
    device: str
    synthetic: bool
    notes: tuple[str, ...]


def embed(settings: EmbedSettings) -> EmbedResult:
    """Write the features of the samples of `settings.store`."""
    plan = lay_out(settings)
    if _goes_on(settings) and plan.out.exists():
        shutil.rmtree(partial_folder(plan.out), ignore_errors=True)  # of a run that was stopped at its very end
        return _result(plan, _facts_of(plan.out), None)
    started = time.monotonic()
    ledger = Ledger(
        plan.out,
        len(plan.numbers),
        plan.facts["made_from"],
        resume=settings.resume,
        overwrite=settings.overwrite,
        what="embedding",
    )
    ledger.save()
    try:
        found = _fill(plan, ledger)
    except KeyboardInterrupt:
        raise Interrupted(f"{plan.out}: interrupted, finished samples are kept; run it again with --resume") from None
    return _result(plan, plan.facts | found, time.monotonic() - started)


def try_out(settings: EmbedSettings) -> EmbedCost:
    """What `embed` would write and take, from a batch of the first samples; writes nothing."""
    plan = lay_out(settings)
    some = plan.numbers[: settings.batch_size]
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        list(plan.reader.encode(some))
        seconds = time.perf_counter() - started
    return EmbedCost(
        path=plan.out,
        **_same(plan),
        uncompressed_bytes=plan.layout(Coding(settings.dtype)).nbytes,
        memory_bytes=peak_bytes(),
        seconds=seconds * len(plan.numbers) / len(some),
        device=str(plan.reader.reading.device),
    )


def lay_out(settings: EmbedSettings) -> EmbedPlan:
    """Open everything, check that it fits together, and encode one sample, before anything is written."""
    out, format_, level = _target_of(settings)
    _check_target(out, settings)
    folder = find_bundle(settings.bundle or newest_bundle())
    bundle, store = load_bundle(folder), Store.open(settings.store)
    preprocessing, notes = match_inputs(bundle.preprocessing, store, str(folder), settings.modalities)
    numbers = store.select(settings.folds, settings.limit)
    if format_ == "cog":
        _check_places(store, numbers)
    patch_metres_of(bundle.encoder, store, preprocessing, settings.patch_metres)
    chosen = tuple(preprocessing.inputs)
    asked = settings.modality, settings.patch_metres, settings.tile_of
    choices, modality = choices_of(bundle.encoder, level, chosen, *asked)
    device = pick_device(settings.device)
    reading = Reading(settings.batch_size, settings.workers, device, settings.quiet)
    reader = FeatureReader(store.path, bundle.encoder, preprocessing, level, reading, modality, choices, settings.dates)
    probe = replace(reader, reading=replace(reading, workers=0))  # no processes for one sample
    shape = next(probe.encode(numbers[:1])).values.shape[1:]
    facts = _facts(settings, reader, bundle, store) | {"bundle": bundle_digest(folder)}
    how = {"format": format_, "device": device.type}
    facts["made_from"] = how | _made_from(settings, facts, store, numbers)
    facts["made_of"] = hashlib.sha256(json.dumps(facts["made_from"], sort_keys=True).encode()).hexdigest()[:16]
    if _goes_on(settings) and out.exists() and _facts_of(out).get("made_of") != facts["made_of"]:
        raise UsageError(f"{out}: is there already, of other data or settings; add --overwrite to replace it")
    return EmbedPlan(settings, reader, store, numbers, out, format_, shape, facts, tuple(notes))


def _facts(settings: EmbedSettings, reader: FeatureReader, bundle: Bundle, store: Store) -> dict[str, Any]:
    """What the output says of itself: whose features of what they are, and how the pixels were standardised."""
    return {
        "kind": KIND,
        "eokit": __version__,
        "level": reader.level,
        "family": bundle.encoder.family,
        "bundle_provenance": bundle.provenance,
        "dataset": store.dataset,
        **{name: store.attributes[name] for name in ("title", "licence", "citation")},
        "synthetic": store.synthetic or bool(bundle.provenance.get("synthetic")),
        "statistics": "of the store" if isinstance(bundle.preprocessing, OpenPreprocessing) else "of the bundle",
        "preprocessing": reader.preprocessing.to_dict(),
        "modality": reader.modality,
        "choices": reader.choices,
        "unseen": "-128" if settings.dtype == "int8" else "NaN",
    }


def _goes_on(settings: EmbedSettings) -> bool:
    return settings.resume and not settings.overwrite


def _made_from(settings: EmbedSettings, facts: dict[str, Any], store: Store, numbers: np.ndarray) -> dict[str, Any]:
    """What the features depend on: they are continued only where all of this is the same."""
    same = ("eokit", "bundle", "level", "modality", "choices", "preprocessing")
    return {
        **{name: facts[name] for name in same},
        "dtype": settings.dtype,
        "dates": settings.dates,
        "store": store_digest(store),
        "samples": hashlib.sha256(numbers.astype(np.int64).tobytes()).hexdigest()[:16],
    }


def _fill(plan: EmbedPlan, ledger: Ledger) -> dict[str, Any]:
    """Encode what is not done yet and put the output in place; what became known on the way."""
    coding = _coding(plan, ledger)
    target = TARGETS[plan.format, len(plan.shape) == 3](ledger.folder, plan.layout(coding))
    loss = Loss(**ledger.facts.get("loss", {}))
    unseen = ledger.facts.get("unseen", [0, 0])
    for values, seen in plan.reader.encode(plan.numbers[ledger.done :], "embed"):
        stored = coding.encode(values, seen)
        target.write(ledger.done, stored)
        loss.add(coding, values, stored, seen)
        unseen = [unseen[0] + int((~seen).sum()), unseen[1] + seen.size]
        ledger.done += len(stored)
        ledger.facts |= {"loss": loss.to_dict(), "unseen": unseen}
        ledger.save()
    found: dict[str, Any] = {"unseen_share": unseen[0] / max(unseen[1], 1)}
    if coding.dtype != "float32":
        found |= {"error": loss.error, "clipped_share": loss.clipped_share}
    if coding.scale is not None:
        found |= {"calibrated_on": len(thin_out(plan.numbers, CALIBRATION))}
    whole = target.finish(found)
    with writing(plan.out, hint="add --resume"):
        put_in_place(whole, plan.out)
    ledger.remove()
    return found


def _coding(plan: EmbedPlan, ledger: Ledger) -> Coding:
    """How numbers are kept; the steps of int8 are found on a first pass over some samples, and kept for a resume."""
    dtype, file = plan.settings.dtype, ledger.folder / "scale.npy"
    if dtype != "int8":
        return Coding(dtype)
    if not ledger.done:
        largest = np.zeros(plan.shape[0], np.float32)
        for values, seen in plan.reader.encode(thin_out(plan.numbers, CALIBRATION), "steps of int8"):
            shown = np.where(seen[:, None], np.abs(values), 0.0)
            largest = np.maximum(largest, shown.max(axis=(0, *range(2, shown.ndim))))
        with writing(file, hint="add --resume"):
            np.save(file, scale_of(largest))
    return Coding(dtype, np.load(file))


def _target_of(settings: EmbedSettings) -> tuple[Path, Format, Level]:
    """The output with its format and level, given or chosen; UsageError where they do not go together."""
    by_name: dict[str, Format] = {".zarr": "zarr", ".parquet": "geoparquet"}
    named = settings.out.suffix.lower() if settings.out is not None else ".zarr"
    format_ = settings.format or by_name.get(named, "cog")
    if format_ == "cog" and named in (".tif", ".tiff"):
        raise UsageError(
            f"{settings.out}: GeoTIFFs of features are a folder with one for each sample; name OUT without {named},"
            " or with .zarr or .parquet for one store or table"
        )
    if settings.format is None and named not in by_name and (meant := get_close_matches(named, by_name, 1, 0.75)):
        raise UsageError(f"{settings.out}: did you mean {meant[0]}? Of a folder of GeoTIFFs say --format cog")
    level = settings.level or ("tile" if format_ == "geoparquet" else "patch")
    if format_ == "geoparquet" and level != "tile":
        raise UsageError(f"--format geoparquet holds one vector a sample, --level {level} gives maps; use zarr or cog")
    if format_ == "cog" and level == "tile":
        raise UsageError("--format cog holds maps, --level tile gives one vector a sample; name OUT .zarr or .parquet")
    if format_ == "cog" and settings.dtype == "float16":
        raise UsageError("--dtype float16: a GeoTIFF cannot hold it; use float32 or int8, or zarr")
    suffix = next((suffix for suffix, name in by_name.items() if name == format_), "")
    return settings.out or Path(f"{settings.store.stem}-{level}{suffix}"), format_, level


def _check_target(out: Path, settings: EmbedSettings) -> None:
    """Refuse to replace anything but older features, and those only where it is asked for."""
    if not out.exists():
        return
    if _facts_of(out).get("kind") != KIND:
        raise UsageError(f"{out}: is there and holds no features, so it is not replaced; choose another place")
    if not (settings.overwrite or settings.resume):
        raise UsageError(f"{out}: is there already; add --overwrite to replace it")


def _check_places(store: Store, numbers: np.ndarray) -> None:
    for number in numbers.tolist():
        where = store.where(number)
        if where.crs is None or where.transform is None:
            raise DataError(f"{store.path}: sample {where.id} has no place on a grid, which a GeoTIFF needs; use .zarr")


def _facts_of(out: Path) -> dict[str, Any]:
    """What features that are there say of themselves; empty for anything else."""
    if out.is_file():
        return read_parquet_facts(out)
    return read_zarr_facts(out) or read_cog_facts(out)


def _result(plan: EmbedPlan, found: dict[str, Any], seconds: float | None) -> EmbedResult:
    known: dict[str, Any] = {name: found.get(name) for name in OF_FILLING}
    files = [plan.out] if plan.out.is_file() else [file for file in plan.out.rglob("*") if file.is_file()]
    return EmbedResult(
        path=plan.out,
        **_same(plan),
        stored_bytes=sum(file.stat().st_size for file in files),
        **known,
        seconds=seconds,
    )


def _same(plan: EmbedPlan) -> dict[str, Any]:
    """What a result and a cost both tell."""
    return {
        "format": plan.format,
        "level": plan.reader.level,
        "dtype": plan.settings.dtype,
        "samples": len(plan.numbers),
        "shape": plan.shape,
        "synthetic": plan.facts["synthetic"],
        "notes": plan.notes,
    }
