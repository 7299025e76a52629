"""Vectors of features as GeoParquet: a row a sample with id, fold, footprint and its vector, a list of fixed length.

Footprints are in longitude and latitude (OGC:CRS84), whatever the store's grids are; `crs` and `transform` tell those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eokit.files import writing
from eokit.mapping.embedding.layout import Place
from eokit.mapping.embedding.zarr_target import Vectors

ROWS = 8192
"""Samples of a row group."""
GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
}
"""GeoParquet 1.1: no `crs` means longitude and latitude."""
FACTS_KEY = b"eokit"


class ParquetVectors(Vectors):
    """Vectors as one GeoParquet file."""

    def finish(self, facts: dict[str, Any]) -> Path:
        """See `eokit.mapping.embedding.layout.Target`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, coding = self.folder / "out.parquet", self.layout.coding
        told = self.layout.attributes | facts
        if coding.scale is not None:
            told |= {"scale": coding.scale.tolist()}
        metadata = {b"geo": json.dumps(GEO).encode(), FACTS_KEY: json.dumps(told).encode()}
        schema = self._table(0, 0).schema.with_metadata(metadata)
        with writing(path, pa.ArrowException, hint="add --resume"), pq.ParquetWriter(path, schema) as writer:
            for start in range(0, len(self.rows), ROWS):
                writer.write_table(self._table(start, start + ROWS).cast(schema))
        return path

    def _table(self, start: int, stop: int) -> Any:
        """The samples from `start` to `stop`."""
        import pyarrow as pa

        places, rows = self.layout.places[start:stop], np.ascontiguousarray(self.rows[start:stop])
        transforms = [None if place.transform is None else list(place.transform) for place in places]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.layout.shape[0])
        return pa.table(
            {
                "id": pa.array([place.id for place in places], pa.string()),
                "fold": pa.array([place.fold for place in places], pa.int32()),
                "crs": pa.array([place.crs for place in places], pa.string()),
                "transform": pa.array(transforms, pa.list_(pa.float64())),
                "geometry": pa.array([footprint(place) for place in places], pa.binary()),
                "features": vectors,
            }
        )


def footprint(place: Place) -> bytes | None:
    """The ground of a sample as WKB in longitude and latitude: of its grid, else as the store tells it."""
    if place.crs is None or place.transform is None:
        return place.footprint
    from rasterio.warp import transform
    from shapely import Polygon, to_wkb

    columns, rows = zip(*place.corners, strict=True)
    lon, lat = transform(place.crs, "EPSG:4326", columns, rows)  # rasterio gives longitude first
    return to_wkb(Polygon(zip(lon, lat, strict=True)), byte_order=1)


def read_parquet_facts(path: Path) -> dict[str, Any]:
    """What a GeoParquet of features says of itself; empty for any other file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = json.loads((pq.read_schema(path).metadata or {}).get(FACTS_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return found if isinstance(found, dict) else {}
