"""`eokit embed`: what is read back is what the encoder gave, where it lies, in every format."""

from __future__ import annotations

import json
from dataclasses import replace

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
import xarray
import zarr

from eokit.data.collate import collate
from eokit.data.dataset import SampleDataset
from eokit.data.formats.treesatai import open_source
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch
from eokit.data.writer import WriteOptions, write_store
from eokit.errors import DataError, Interrupted, UsageError
from eokit.files import put_in_place
from eokit.mapping.embedding.encode import FeatureReader
from eokit.mapping.embedding.run import EmbedSettings, embed, try_out
from eokit.mapping.ledger import Ledger, partial_folder
from eokit.models.base import Features
from eokit.models.bundle import load_bundle
from eokit.tasks.inputs import Reading, match_inputs
from tests.data.stores import make_source, make_store
from tests.mapping.cog_layout import assert_cloud_optimized
from tests.tasks.many_sensors import anysat_bundle, many_sensors
from tests.training.labelled_stores import labelled_store, random_bundle

STEP = {"float16": 2.0**-11}
"""Relative step of a dtype."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return many_sensors(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return anysat_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


@pytest.fixture
def run(bundle, store, tmp_path):
    """`run("x.zarr", level="tile", ...)`: the result and the path of an embedding."""

    def make(name, **changes):
        values = {"bundle": bundle, "store": store.path, "out": tmp_path / name, "device": "cpu", "quiet": True}
        return embed(EmbedSettings(**(values | changes))), tmp_path / name

    return make


def features_of(bundle, store, size=8, **choices):
    """What the encoder says of all samples of the store, in batches of `size`."""
    loaded = load_bundle(bundle)
    preprocessing, _ = match_inputs(loaded.preprocessing, store, "bundle")
    samples = list(SampleDataset(store.path, range(len(store)), preprocessing))
    with torch.inference_mode():
        return [
            loaded.encoder.eval()(collate(samples[start : start + size]), **choices)
            for start in range(0, len(samples), size)
        ]


def joined(parts, name):
    return torch.cat([getattr(one, name) for one in parts]).numpy()


def test_a_float32_zarr_is_the_output_of_the_encoder_bit_for_bit(run, bundle, store):
    given = features_of(bundle, store)
    for level, name in (("tile", "tile"), ("patch", "patch")):
        _, path = run(f"{level}.zarr", level=level)
        assert np.array_equal(zarr.open_array(path / "features")[:], joined(given, name)), level


@pytest.mark.parametrize("tile_of", ["token", "patches", "modalities"])
def test_the_vector_of_a_sample_is_the_one_asked_for(run, bundle, store, tile_of):
    _, path = run("tile.zarr", level="tile", tile_of=tile_of)
    given = joined(features_of(bundle, store, tile_of=tile_of), "tile")
    assert np.array_equal(zarr.open_array(path / "features")[:], given)
    assert (tile_of == "token") == np.array_equal(given, joined(features_of(bundle, store), "tile"))


def test_maps_have_no_vector_of_a_sample_to_choose(run):
    with pytest.raises(UsageError, match="--tile-of patches: only --level tile is one vector a sample, this is patch"):
        run("maps.zarr", level="patch", tile_of="patches")


def test_a_family_with_one_vector_of_a_sample_has_no_choice(run, tmp_path):
    plain = labelled_store(tmp_path / "plain.zarr")
    with pytest.raises(UsageError, match="--tile-of patches: cropsts has one vector of a sample; leave the option out"):
        run("x.zarr", bundle=random_bundle(tmp_path / "c", plain), store=plain.path, level="tile", tile_of="patches")


def test_pixels_are_the_sub_patches_of_the_modality_asked_for(run, bundle, store):
    result, path = run("pixel.zarr", level="pixel", modality="spot", patch_metres=20)
    given = joined(features_of(bundle, store, patch_metres=20, dense="spot"), "dense")
    assert result.shape == (128, 16, 16)
    assert np.array_equal(zarr.open_array(path / "features")[:], given)


@pytest.mark.parametrize("level", ["tile", "patch"])
def test_cropsts_is_embedded_too(tmp_path, level):
    store = labelled_store(tmp_path / "toy.zarr")
    bundle = random_bundle(tmp_path / "b", store)
    out = tmp_path / "x.zarr"
    embed(EmbedSettings(bundle=bundle, store=store.path, out=out, level=level, device="cpu", quiet=True))
    assert np.array_equal(zarr.open_array(out / "features")[:], joined(features_of(bundle, store), level))


def test_float16_is_within_its_step(run, bundle, store):
    result, path = run("x.zarr", dtype="float16")
    kept, given = zarr.open_array(path / "features")[:], joined(features_of(bundle, store), "patch")
    np.testing.assert_allclose(kept.astype(np.float32), given, rtol=STEP["float16"], atol=2**-24)
    assert 0 < result.error < STEP["float16"]


def test_int8_is_within_half_a_step_of_its_channel(run, bundle, store):
    result, path = run("x.zarr", dtype="int8")
    group = zarr.open_group(path)
    scale = group["scale"][:][:, None, None]
    error = np.abs(group["features"][:] * scale - joined(features_of(bundle, store), "patch"))
    assert (error <= scale * (0.5 + 1e-4)).all()
    assert (result.clipped_share, result.calibrated_on) == (0.0, 4)
    assert 0 < result.error < 0.01


def test_numbers_beyond_the_samples_that_made_the_steps_are_clipped_and_told(run, bundle, store, monkeypatch):
    monkeypatch.setattr("eokit.mapping.embedding.run.CALIBRATION", 1)
    result, path = run("x.zarr", dtype="int8")
    stored = zarr.open_array(path / "features")[:]
    scale = zarr.open_array(path / "scale")[:][:, None, None]
    over = np.abs(joined(features_of(bundle, store), "patch")) > 127.5 * scale
    assert result.clipped_share == pytest.approx(over.mean())
    assert over.any()
    assert (np.abs(stored[over].astype(int)) == 127).all()


@pytest.mark.parametrize(("dtype", "unseen"), [("float32", np.nan), ("float16", np.nan), ("int8", -128)])
def test_patches_that_no_date_shows_are_marked_and_counted(run, dtype, unseen):
    result, path = run("x.zarr", dtype=dtype, modalities=("s2",), dates=1)  # its first date hides a quarter
    stored = zarr.open_array(path / "features")[:]
    hidden = np.zeros(stored.shape, bool)
    hidden[:, :, :2, :2] = True
    assert np.array_equal(np.isnan(stored) if unseen != -128 else stored == -128, hidden)
    assert result.unseen_share == 0.25


def test_a_sample_that_only_a_sensor_without_patches_saw_has_a_vector_and_one_that_nobody_saw_has_none(bundle, store):
    seen = torch.zeros(2, 1, 1, dtype=torch.bool)
    features = Features(torch.ones(2, 4), torch.ones(2, 4, 1, 1), seen, whole_seen=torch.tensor([True, False]))
    told = {}
    for level in ("tile", "patch"):
        reader = FeatureReader(store.path, load_bundle(bundle).encoder, Preprocessing({}), level, Reading(), None, {})
        told[level] = reader._of_level(features, Batch({}, ())).seen.flatten().tolist()
    assert told == {"tile": [True, False], "patch": [False, False]}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_xarray_reads_what_was_not_seen_as_no_number(run, dtype):
    _, path = run("x.zarr", dtype=dtype, modalities=("s2",), dates=1)
    features = xarray.open_zarr(path, consolidated=False)["features"]
    assert features.dims == ("sample", "channel", "y", "x")
    assert np.isnan(features.values).mean() == 0.25


def test_pixels_that_the_modality_did_not_show_are_marked_in_patches_that_another_did(run):
    _, path = run("x.zarr", level="pixel", modality="s2", modalities=("s2", "spot"), dates=1)
    hidden = np.isnan(zarr.open_array(path / "features")[:]).all(1)
    assert hidden[:, :8, :8].all()
    assert not hidden[:, 8:].any()


def test_the_zarr_says_where_its_samples_lie_and_what_they_are(run, store):
    _, path = run("x.zarr", level="patch", patch_metres=80)
    told = dict(zarr.open_group(path).attrs)
    second = told["samples"][1]
    assert (second["id"], second["fold"], second["proj:code"]) == ("p1", 2, "EPSG:32631")
    assert second["spatial:transform"] == [80.0, 0.0, 500_480.0, 0.0, -80.0, 5_000_000.0]
    assert second["spatial:bbox"] == [500_480.0, 4_999_840.0, 500_640.0, 5_000_000.0]
    assert (told["synthetic"], told["family"], told["statistics"]) == (True, "anysat", "of the bundle")
    assert list(told["preprocessing"]) == ["s2", "s1-asc", "spot"]


def test_an_open_bundle_says_that_the_statistics_are_the_stores(run, store, tmp_path):
    result, path = run("x.zarr", bundle=anysat_bundle(tmp_path / "open"))
    assert zarr.open_group(path).attrs["statistics"] == "of the store"
    assert any("over all its folds" in note for note in result.notes)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_geoparquet_opens_in_geopandas_at_the_right_place(run, bundle, store, dtype):
    _, path = run("x.parquet", dtype=dtype)
    table = geopandas.read_parquet(path)
    given = joined(features_of(bundle, store), "tile")
    assert table.crs == "OGC:CRS84"
    assert table["id"].tolist() == store.ids
    left, bottom, right, top = table.to_crs("EPSG:32631").total_bounds
    assert (left, top) == (pytest.approx(500_000, abs=0.01), pytest.approx(5_000_000, abs=0.01))
    assert (right - left, top - bottom) == (pytest.approx(3 * 480 + 160, abs=0.1), pytest.approx(160, abs=0.1))
    vectors = np.stack(table["features"]).astype(np.float32)
    if dtype == "int8":
        scale = np.array(json.loads(pq.read_schema(path).metadata[b"eokit"])["scale"])
        assert (np.abs(vectors * scale - given) <= scale * (0.5 + 1e-4)).all()
    else:
        np.testing.assert_allclose(vectors, given, rtol=STEP.get(dtype, 0), atol=2**-24)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_geotiffs_open_in_rasterio_at_the_right_place(run, bundle, store, dtype):
    _, path = run("maps", dtype=dtype)
    given = joined(features_of(bundle, store), "patch")
    told = json.loads((path / "features.json").read_text())
    assert [one["file"] for one in told["samples"]] == ["p0.tif", "p1.tif", "p2.tif", "p3.tif"]
    for row, name in enumerate(store.ids):
        with rasterio.open(path / f"{name}.tif") as source:
            assert source.crs == "EPSG:32631"
            assert tuple(source.transform)[:6] == (40.0, 0.0, 500_000.0 + 480 * row, 0.0, -40.0, 5_000_000.0)
            assert source.tags()["EOKIT_SYNTHETIC"] == "yes"
            scale = np.array(source.scales)[:, None, None]
            error = np.abs(source.read() * scale - given[row])
            assert (error <= (scale * (0.5 + 1e-4) if dtype == "int8" else 0)).all()
        assert_cloud_optimized(path / f"{name}.tif")


def test_unseen_patches_are_nodata_in_geotiffs(run):
    for dtype in ("float32", "int8"):
        _, path = run(f"maps-{dtype}", dtype=dtype, modalities=("s2",), dates=1)
        with rasterio.open(path / "p0.tif") as source:
            masked = source.read(masked=True).mask
        assert masked[:, :2, :2].all()
        assert not masked[:, 2:].any()


def test_samples_without_a_place_are_refused_as_geotiffs(tmp_path, run, store):
    nowhere = make_nowhere(tmp_path)
    with pytest.raises(DataError, match="sample p0 has no place on a grid"):
        run("maps", store=nowhere.path)
    assert run("x.zarr", store=nowhere.path)[0].samples == 2
    _, path = run("x.parquet", store=nowhere.path)
    assert geopandas.read_parquet(path).geometry.isna().all()


def make_nowhere(tmp_path):
    source = make_source((3, 4), size=16, bands=10)
    source.entries = [replace(entry, crs=None, transform=None) for entry in source.entries]
    return make_store(tmp_path / "nowhere.zarr", source)


@pytest.mark.parametrize(("name", "dtype"), [("x.zarr", "int8"), ("x.parquet", "float32"), ("maps", "int8")])
def test_an_interrupted_run_goes_on_and_gives_the_same_features(run, tmp_path, monkeypatch, name, dtype):
    save = Ledger.save

    def stop(self):
        save(self)
        if self.done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "save", stop)
    with pytest.raises(Interrupted, match="with --resume"):
        run(name, dtype=dtype, batch_size=1)
    monkeypatch.setattr(Ledger, "save", save)
    with pytest.raises(UsageError, match=r"unfinished embedding \(50%\)"):
        run(name, dtype=dtype, batch_size=1)
    resumed, path = run(name, dtype=dtype, batch_size=1, resume=True)
    assert not partial_folder(path).exists()
    whole, other = run(f"whole-{name}", dtype=dtype, batch_size=1)
    assert (resumed.error, resumed.unseen_share) == (whole.error, whole.unseen_share)
    assert contents(path) == contents(other)


@pytest.mark.parametrize("name", ["x.zarr", "x.parquet", "maps"])
def test_a_run_that_was_stopped_before_its_output_got_its_name_is_completed(run, monkeypatch, name):
    def stop(aside, path):
        raise KeyboardInterrupt

    monkeypatch.setattr("eokit.mapping.embedding.run.put_in_place", stop)
    with pytest.raises(Interrupted):
        run(name)
    monkeypatch.setattr("eokit.mapping.embedding.run.put_in_place", put_in_place)
    _, path = run(name, resume=True)
    assert contents(path) == contents(run(f"whole-{name}")[1])


def contents(path):
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_what_is_finished_is_left_alone_under_resume(run):
    _, path = run("x.zarr", dtype="int8")
    before = contents(path)
    again, _ = run("x.zarr", dtype="int8", resume=True)
    assert again.seconds is None
    assert again.clipped_share == 0.0
    assert contents(path) == before
    with pytest.raises(UsageError, match="of other data or settings"):
        run("x.zarr", dtype="float16", resume=True)


def test_features_are_replaced_only_where_it_is_asked_for_and_nothing_else_ever(run, tmp_path):
    run("x.zarr")
    with pytest.raises(UsageError, match="add --overwrite"):
        run("x.zarr")
    assert run("x.zarr", overwrite=True, level="tile")[0].shape == (64,)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="holds no features, so it is not replaced"):
        run("mine", overwrite=True)


def test_a_store_is_never_replaced_by_features(run, store):
    with pytest.raises(UsageError, match="holds no features"):
        run("x", out=store.path, overwrite=True)


def test_folds_and_limit_choose_the_samples(run):
    assert run("folds.zarr", folds=(2,))[0].samples == 2
    _, path = run("limit.zarr", limit=3)
    assert [one["id"] for one in zarr.open_group(path).attrs["samples"]] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("x.parquet", {"level": "patch"}, "geoparquet holds one vector a sample"),
        ("maps", {"level": "tile"}, "cog holds maps"),
        ("ts.parqet", {}, r"ts.parqet: did you mean .parquet\? Of a folder of GeoTIFFs say --format cog"),
        ("ts.tif", {}, "ts.tif: GeoTIFFs of features are a folder with one for each sample; name OUT without .tif"),
        ("maps", {"dtype": "float16"}, "a GeoTIFF cannot hold it"),
        ("x.zarr", {"modality": "spot"}, "only --level pixel is of one modality"),
        ("x.zarr", {"level": "pixel", "modality": "naip"}, "naip: not among those that are encoded"),
        ("x.zarr", {"modalities": ("naip",)}, "modality 'naip' is not among"),
        ("x.zarr", {"patch_metres": 30}, "do not divide into whole ones; give --patch-metres 10"),
        ("x.zarr", {"patch_metres": 25}, "do not divide into whole ones"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(run, tmp_path, name, changes, told):
    with pytest.raises(UsageError, match=told):
        run(name, **changes)
    assert not partial_folder(tmp_path / name).exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"level": "pixel"}, "cropsts has no features of pixels"),
        ({"patch_metres": 40}, "the patches of cropsts are 4 pixels"),
    ],
)
def test_what_an_encoder_has_not_is_refused(tmp_path, changes, told):
    store = labelled_store(tmp_path / "toy.zarr", folds=(1, 2, 3))
    bundle = random_bundle(tmp_path / "b", store)
    with pytest.raises(UsageError, match=told):
        embed(EmbedSettings(bundle=bundle, store=store.path, out=tmp_path / "x.zarr", device="cpu", **changes))


def test_a_dry_run_tells_bytes_and_writes_nothing(bundle, store, tmp_path):
    cost = try_out(EmbedSettings(bundle=bundle, store=store.path, out=tmp_path / "x.zarr", device="cpu", quiet=True))
    assert (cost.samples, cost.shape, cost.uncompressed_bytes) == (4, (64, 4, 4), 4 * 64 * 16 * 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
@pytest.mark.parametrize(("level", "shape"), [("tile", (1, 64)), ("patch", (1, 64, 3, 3)), ("pixel", (1, 128, 6, 6))])
def test_the_real_treesatai_patch_prepares_and_embeds(shared, tmp_path, level, shape):
    """60 m: three patches of 20 m along it, and six pixels of Sentinel-2."""
    written = write_store(open_source(shared("treesatai-ts")), tmp_path / "real.zarr", WriteOptions(quiet=True))
    bands = {"aerial": 4, "s2": 10, "s1-asc": 2, "s1-des": 2}
    bundle = anysat_bundle(tmp_path / "b", modalities=bands, patch_metres=20)
    modality = "s2" if level == "pixel" else None
    out = tmp_path / "x.zarr"
    embed(EmbedSettings(bundle=bundle, store=written.path, out=out, level=level, modality=modality, quiet=True))
    features = zarr.open_group(out, mode="r")["features"][:]
    assert features.shape == shape
    assert np.isfinite(features).all()
    assert features.std() > 0
