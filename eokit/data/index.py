"""The table of a store's samples, index.parquet: GeoParquet, so that geopandas, QGIS and DuckDB open it too.

One row a sample: id, fold, slot (its place in the label arrays), where it lies, first and last day, dates per modality.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.spec import Entry

_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
}
"""GeoParquet 1.1: no `crs` means longitude and latitude (OGC:CRS84)."""


@dataclass(frozen=True)
class Index:
    """What the readers need of index.parquet, one item a sample. footprints: WKB in longitude and latitude, or None."""

    ids: list[str]
    folds: np.ndarray
    slots: np.ndarray
    crs: list[str | None]
    transforms: list[tuple[float, ...] | None]
    lon: list[float | None]
    lat: list[float | None]
    footprints: list[bytes | None]
    extra: list[dict[str, Any]]


def index_bytes(entries: Sequence[Entry], slots: Sequence[int], modalities: Sequence[str]) -> bytes:
    """The file's bytes; the same entries give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    centres = [_centre(entry.footprint) for entry in entries]
    spans = [_span(entry) for entry in entries]
    columns = {
        "id": pa.array([entry.id for entry in entries], pa.string()),
        "fold": pa.array([entry.fold for entry in entries], pa.int32()),
        "slot": pa.array(slots, pa.int64()),
        "crs": pa.array([entry.crs for entry in entries], pa.string()),
        "transform": pa.array([_floats(entry.transform) for entry in entries], pa.list_(pa.float64())),
        "lon": pa.array([lon for lon, _ in centres], pa.float64()),
        "lat": pa.array([lat for _, lat in centres], pa.float64()),
        "first_day": pa.array([first for first, _ in spans], pa.int32()),
        "last_day": pa.array([last for _, last in spans], pa.int32()),
        **{f"dates_{m}": pa.array([len(entry.days[m]) for entry in entries], pa.int32()) for m in modalities},
        "extra": pa.array([json.dumps(dict(entry.extra), sort_keys=True) for entry in entries], pa.string()),
        "geometry": pa.array([_wkb(entry.footprint) for entry in entries], pa.binary()),
    }
    table = pa.table(columns).replace_schema_metadata({"geo": json.dumps(_GEO)})
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read_index(file: Path) -> Index:
    """The index of a store; OSError, KeyError or pyarrow's errors (ValueErrors) when it is missing or damaged."""
    import pyarrow.parquet as pq

    with file.open("rb") as stream:
        # A thread of Arrow that outlives the interpreter with a Python file in its hands aborts the process.
        rows = pq.ParquetFile(stream).read(use_threads=False).to_pydict()
    return Index(
        ids=rows["id"],
        folds=np.array(rows["fold"], np.int32),
        slots=np.array(rows["slot"], np.int64),
        crs=rows["crs"],
        transforms=[None if numbers is None else tuple(numbers) for numbers in rows["transform"]],
        lon=rows["lon"],
        lat=rows["lat"],
        footprints=rows["geometry"],
        extra=[json.loads(text) for text in rows["extra"]],
    )


def _centre(footprint: Any) -> tuple[float | None, float | None]:
    if footprint is None:
        return None, None
    centre = footprint.centroid
    return centre.x, centre.y


def _wkb(footprint: Any) -> bytes | None:
    if footprint is None:
        return None
    from shapely import to_wkb

    return to_wkb(footprint, byte_order=1)


def _span(entry: Entry) -> tuple[int | None, int | None]:
    """First and last day of a sample over all its modalities."""
    days = np.concatenate([np.asarray(days) for days in entry.days.values()] or [np.empty(0)])
    return (int(days.min()), int(days.max())) if len(days) else (None, None)


def _floats(transform: Sequence[float] | None) -> list[float] | None:
    return None if transform is None else [float(number) for number in transform]
