"""`eokit embed` as it is typed."""

from __future__ import annotations

import json

import pytest

from tests.tasks.many_sensors import anysat_bundle, many_sensors


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return many_sensors(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return anysat_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


def test_json_is_the_only_thing_on_stdout(eokit, bundle, store, tmp_path):
    code, out, _ = eokit("embed", bundle, store.path, "maps", "--dtype", "int8", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["path"], told["format"], told["level"], told["synthetic"]) == ("maps", "cog", "patch", True)
    assert len(list((tmp_path / "maps").glob("*.tif"))) == told["samples"] == 4


def test_the_summary_tells_shape_rounding_and_path(eokit, bundle, store):
    code, out, _ = eokit("embed", bundle, store.path, "x.parquet", "--dtype", "int8")
    assert code == 0
    told = ("tile, 4 samples of 64 int8, geoparquet", "rounding", "steps from 4 samples", "x.parquet", "SYNTHETIC")
    assert all(word in out for word in told)


def test_a_dry_run_says_that_nothing_was_written(eokit, bundle, store, tmp_path):
    code, out, _ = eokit("embed", bundle, store.path, "x.zarr", "--dry-run")
    assert code == 0
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_an_open_bundle_tells_whose_statistics_it_takes(eokit, store, tmp_path):
    code, _, err = eokit("embed", anysat_bundle(tmp_path / "open"), store.path, "x.zarr")
    assert code == 0
    assert "note: s2, s1-asc, spot: standardised by the statistics of" in err


def test_a_name_is_chosen_where_none_is_given(eokit, bundle, store, tmp_path):
    assert eokit("embed", bundle, store.path)[0] == 0
    assert (tmp_path / "toy-patch.zarr" / "zarr.json").is_file()


def test_what_is_there_is_exit_2_with_the_way_out(eokit, bundle, store):
    assert eokit("embed", bundle, store.path, "x.zarr")[0] == 0
    code, _, err = eokit("embed", bundle, store.path, "x.zarr")
    assert code == 2
    assert err == "eokit: x.zarr: is there already; add --overwrite to replace it\n"
