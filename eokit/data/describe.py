"""What is in a store, as plain values: sensors, dates, gaps, folds, classes, sizes. Called by `eokit inspect`."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.store import Store


def describe(store: Store) -> dict[str, Any]:
    """Everything `eokit inspect` prints; nothing but strings, numbers, lists and dictionaries."""
    folds, counts = np.unique(store.folds, return_counts=True)
    stored = bytes_on_disk(store.path)
    whole = sum(_uncompressed(store, name) for name in store.modalities)
    whole += len(store) * sum(
        int(np.prod(label.shape)) * np.dtype(label.dtype).itemsize for label in store.labels.values()
    )
    return {
        "store": str(store.path),
        "dataset": store.dataset,
        "title": store.attributes["title"],
        "synthetic": store.synthetic,
        "licence": store.attributes["licence"],
        "samples": len(store),
        "folds": {str(fold): int(count) for fold, count in zip(folds, counts, strict=True)},
        "modalities": {name: _modality(store, name) for name in store.modalities},
        "labels": {name: _label(store, name) for name in store.labels},
        "bytes_on_disk": stored,
        "bytes_uncompressed": whole,
        "compression_ratio": round(whole / max(stored, 1), 3),
        "shards": None if store.shards is None else len(store.shards.sizes),
        "damage": [] if store.shards is None else list(store.shards.damage()),
    }


def bytes_on_disk(path: Path) -> int:
    """Bytes of all files under `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def iso(day: int) -> str:
    """A day since 1970-01-01 as 2019-05-31."""
    return (date(1970, 1, 1) + timedelta(days=int(day))).isoformat()


def _modality(store: Store, name: str) -> dict[str, Any]:
    spec = store.modalities[name]
    days = [store.days(name, sample) for sample in range(len(store))]
    lengths = [len(one) for one in days]
    every = np.concatenate(days)
    gaps = np.concatenate([np.diff(one) for one in days])
    return {
        "sensor": spec.sensor,
        "bands": list(spec.bands),
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "gsd_m": spec.gsd,
        "dates": [min(lengths), max(lengths)],
        "first_day": iso(every.min()) if len(every) else None,
        "last_day": iso(every.max()) if len(every) else None,
        "median_gap_days": float(np.median(gaps)) if len(gaps) else None,
        "longest_gap_days": int(gaps.max()) if len(gaps) else None,
        "nodata_share": store.statistics["modalities"][name]["all"]["nodata_share"],
    }


def _label(store: Store, name: str) -> dict[str, Any]:
    spec = store.labels[name]
    facts: dict[str, Any] = {"shape": list(spec.shape), "dtype": spec.dtype, "ignore": spec.ignore}
    if spec.classes is None:
        return facts
    counts = store.class_counts(name)
    shares = counts / max(len(store) if spec.multilabel else int(counts.sum()), 1)
    counted = "pixels" if spec.is_map else "samples"
    rows = enumerate(zip(spec.classes, counts.tolist(), shares.tolist(), strict=True))
    classes = [{"id": k, "name": title, counted: count, "share": share} for k, (title, count, share) in rows]
    return facts | {"counted": counted, "classes": classes}


def _uncompressed(store: Store, name: str) -> int:
    """Bytes of a modality's images without padding or compression."""
    spec = store.modalities[name]
    dates = sum(len(store.days(name, sample)) for sample in range(len(store)))
    return dates * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
