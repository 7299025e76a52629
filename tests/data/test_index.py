"""index.parquet is GeoParquet that geopandas opens, and the same entries give the same bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from eokit.data.index import index_bytes, read_index
from eokit.data.writer import Entry

shapely = pytest.importorskip("shapely")


def entries():
    box = shapely.box(2.0, 46.0, 2.5, 46.5)
    days = {"s2": np.array([17_800, 17_900], np.int32), "spot": np.array([18_078], np.int32)}
    empty = {"s2": np.array([], np.int32), "spot": np.array([], np.int32)}
    return [
        Entry("a", 1, days, "EPSG:32631", (10, 0, 5e5, 0, -10, 5e6), box, {"tile": "t31tfm"}),
        Entry("b", 2, empty),
    ]


def test_geopandas_reads_the_footprints_in_longitude_and_latitude():
    geopandas = pytest.importorskip("geopandas")
    table = geopandas.read_parquet(io.BytesIO(index_bytes(entries(), [0, 1], ["s2", "spot"])))
    assert table.geometry[0].bounds == (2.0, 46.0, 2.5, 46.5)
    assert table.crs == "OGC:CRS84"
    assert (table.first_day[0], table.last_day[0], table.dates_s2[0]) == (17_800, 18_078, 2)


def test_what_is_not_known_stays_none(tmp_path):
    (tmp_path / "index.parquet").write_bytes(index_bytes(entries(), [0, 4], ["s2", "spot"]))
    index = read_index(tmp_path / "index.parquet")
    assert (index.lon, index.lat) == ([2.25, None], [46.25, None])
    assert (index.crs[1], index.transforms[1], index.footprints[1]) == (None, None, None)
    assert index.transforms[0] == (10, 0, 5e5, 0, -10, 5e6)
    assert (index.extra, index.slots.tolist()) == ([{"tile": "t31tfm"}, {}], [0, 4])


def test_the_same_entries_give_the_same_bytes():
    assert index_bytes(entries(), [0, 1], ["s2"]) == index_bytes(entries(), [0, 1], ["s2"])
