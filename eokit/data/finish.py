"""The last step of writing a store: dates and offsets, index, statistics, and the Zarr documents that make it whole.

Called by `eokit.data.writer` when all shards are written.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from eokit.data import shard_list
from eokit.data.index import index_bytes
from eokit.data.layout import SCHEMA_VERSION, ArrayLayout, small_metadata
from eokit.data.sensors import get_sensor
from eokit.data.shard_writer import write_aside, write_small
from eokit.data.spec import LabelSpec, ModalitySpec, StoreSpec
from eokit.data.statistics import Histogram
from eokit.data.tasks import MANIFEST, Job, Record


def finish_store(job: Job, records: list[Record], skipped: dict[str, str], layout: str) -> None:
    """Write everything but the shards; the root zarr.json comes last, so that whatever has one is whole."""
    spec, entries = job.source.spec, job.source.entries
    slots = [slot for slot, entry in enumerate(entries) if entry.id not in skipped]
    kept = [entries[slot] for slot in slots]
    documents: dict[str, dict[str, Any]] = {}
    for modality in spec.modalities:
        documents |= _write_dates(job, modality, slots)
    documents |= _label_documents(job)
    names = [modality.name for modality in spec.modalities]
    write_aside(job.root / "index.parquet", index_bytes(kept, slots, names))
    write_aside(job.root / "stats.json", _json(_statistics(job, records)))
    sizes = {file: size for record in records for file, (size, _) in record.files.items()}
    write_aside(job.root / shard_list.FILE, shard_list.list_bytes(sizes))
    for path, document in documents.items():
        write_aside(job.root / path / "zarr.json", _json(document))
    attributes = _attributes(spec) | {"layout": layout, "samples": len(kept), "skipped": skipped}
    attributes[shard_list.ATTRIBUTE] = shard_list.FILE
    consolidated = {"kind": "inline", "must_understand": False, "metadata": documents}
    root = _group(attributes) | {"consolidated_metadata": consolidated}
    write_aside(job.root / "zarr.json", _json(root))


def _write_dates(job: Job, modality: ModalitySpec, slots: list[int]) -> dict[str, dict[str, Any]]:
    """`days` and `offset` of one modality; gives the documents of its group."""
    array, starts = job.plan.arrays[modality.name], job.plan.starts[modality.name]
    days = np.zeros(array.shape[0], np.int32)
    offset = np.zeros((len(slots), 2), np.int64)
    for sample, slot in enumerate(slots):
        own = np.asarray(job.source.entries[slot].days[modality.name], np.int32)
        days[starts[slot] : starts[slot] + len(own)] = own
        offset[sample] = starts[slot], len(own)
    of_days = ArrayLayout(f"{modality.name}/days", days.shape, (), (), "int32", 0, ("row",))
    of_offset = ArrayLayout(f"{modality.name}/offset", offset.shape, (), (), "int64", 0, ("sample", "start_count"))
    write_small(job.root, of_days, days)
    write_small(job.root, of_offset, offset)
    time = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}
    return {
        modality.name: _group({}),
        array.path: array.metadata(_pixel_attributes(modality)),
        of_days.path: small_metadata(of_days, time),
        of_offset.path: small_metadata(of_offset, {"long_name": "first row and number of dates of each sample"}),
    }


def _label_documents(job: Job) -> dict[str, dict[str, Any]]:
    if not job.plan.labels:
        return {}
    arrays = {layout.path: layout.metadata({}) for layout in job.plan.labels.values()}
    return {"labels": _group({})} | arrays


def _statistics(job: Job, records: list[Record]) -> dict[str, Any]:
    """stats.json: of every modality by band and fold, of every label layer the pixels of each class by fold."""
    series: dict[str, Any] = {}
    for modality in job.source.spec.modalities:
        histogram = Histogram(modality.shape[0], modality.dtype, modality.nodata)
        for task in job.plan.tasks:
            if task.modality == modality.name:
                histogram.add_bytes((job.root / MANIFEST / f"{task.key}.npz").read_bytes())
        series[modality.name] = histogram.summary(modality)
    labels: dict[str, dict[str, list[int]]] = {}
    for record in records:
        for name, folds in record.class_counts.items():
            sums = labels.setdefault(name, {})
            for fold, counts in sorted(folds.items()):
                sums[fold] = np.add(sums.get(fold, [0] * len(counts)), counts).tolist()
    return {"modalities": series, "labels": labels}


def _attributes(spec: StoreSpec) -> dict[str, Any]:
    """The root attributes: what is in the store and where it comes from."""
    facts = {key: getattr(spec, key) for key in ("dataset", "title", "licence", "citation", "synthetic")}
    modalities = {one.name: _without_name(one) | {"wavelength": _wavelengths(one)} for one in spec.modalities}
    labels = {one.name: _without_name(one) for one in spec.labels}
    return {"schema_version": SCHEMA_VERSION, **facts, "modalities": modalities, "labels": labels}


def _without_name(spec: ModalitySpec | LabelSpec) -> dict[str, Any]:
    plain = asdict(spec)
    del plain["name"]
    return plain


def _wavelengths(spec: ModalitySpec) -> list[float | None]:
    """Centre wavelengths in nm, None for radar."""
    sensor = get_sensor(spec.sensor)
    return [sensor.band(band).wavelength for band in spec.bands]


def _pixel_attributes(spec: ModalitySpec) -> dict[str, Any]:
    """The CF attributes by which xarray turns stored values into physical ones."""
    attributes: dict[str, Any] = {"long_name": get_sensor(spec.sensor).title, "units": get_sensor(spec.sensor).unit}
    if spec.scale != 1.0:
        attributes["scale_factor"] = spec.scale
    if spec.nodata is not None:
        attributes["_FillValue"] = spec.nodata
    return attributes | {"band_names": list(spec.bands)}


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
