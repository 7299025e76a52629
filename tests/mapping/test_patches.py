"""The samples of a store become maps: each where it lies, one map per coordinate system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.store import Store
from eokit.errors import DataError, Interrupted, UsageError, WeightsError
from eokit.mapping import draw
from eokit.mapping.inference import Predictor
from eokit.mapping.patches import open_store
from eokit.mapping.predict import PredictSettings, predict_with
from tests.data.stores import BANDS, NODATA, MemorySource, make_source, make_store, pixels
from tests.mapping.scenes import CLASSES, PixelModel, StopsAfter

S2 = Input("sentinel-2", BANDS[:4], (80.0,) * 4, (30.0,) * 4)
MODEL = Preprocessing({"s2": S2})


@pytest.fixture(autouse=True)
def _no_picture(request, monkeypatch):
    if "picture" not in request.node.name:
        monkeypatch.setattr(draw, "draw_map", lambda *_: None)


def draw_store(store: Path, out: Path, model=None, **changes):
    predictor = Predictor(model or PixelModel(), MODEL, CLASSES, 4, "stub", torch.device("cpu"))
    given = {"tile": 32, "overlap": 8, "quiet": True} | changes
    return predict_with(predictor, PredictSettings(bundle=Path("unused"), source=store, out=out, **given))


def moved(source: MemorySource, **places) -> MemorySource:
    """The source with other values of `crs` or `transform`, one a sample."""
    rows = [dict(zip(places, values, strict=True)) for values in zip(*places.values(), strict=True)]
    return replace(source, entries=[replace(one, **row) for one, row in zip(source.entries, rows, strict=True)])


def shifted(*columns: float) -> list[tuple[float, ...]]:
    return [(10.0, 0.0, 500_000.0 + 10 * column, 0.0, -10.0, 5_000_000.0) for column in columns]


def sample_map(store: Store, sample: int) -> np.ndarray:
    """Classes of one sample from all its pixels at once; 255 where no date shows the pixel."""
    values, valid = MODEL.apply("s2", store.read("s2", sample))
    mean = values.sum(0) / valid.sum(0).clip(1).astype(np.float32)
    classes = torch.einsum("kc,chw->khw", PixelModel().weights, torch.from_numpy(mean)).argmax(0).numpy()
    return np.where(valid.any(0), classes, 255)


def test_samples_lie_side_by_side_as_on_the_ground(tmp_path):
    store = make_store(tmp_path / "toy.zarr")
    draw_store(store.path, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert (drawn.shape, drawn.crs.to_epsg()) == ((48, 4 * 48), 32631)
        assert tuple(drawn.transform)[:6] == (10, 0, 500_000, 0, -10, 5_000_000)
        expected = np.concatenate([sample_map(store, number) for number in range(4)], axis=1)
        np.testing.assert_array_equal(drawn.read(1), expected)


def test_a_sample_without_dates_is_nodata(tmp_path):
    store = make_store(tmp_path / "toy.zarr")
    draw_store(store.path, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert (drawn.read(1)[:, 96:144] == 255).all()


def test_folds_and_limit_choose_samples(tmp_path):
    store = make_store(tmp_path / "toy.zarr")
    ids = [area.identity["samples"] for area in open_store(store.path, MODEL, folds=[2])]
    assert ids == [["p1", "p3"]]
    assert open_store(store.path, MODEL, limit=1)[0].identity["samples"] == ["p0"]


@pytest.mark.parametrize(("limit", "partial"), [(2, True), (4, False), (None, False)])
def test_a_map_of_some_samples_says_that_it_is_partial(tmp_path, limit, partial):
    store = make_store(tmp_path / "toy.zarr")
    (result,) = draw_store(store.path, tmp_path / "map.tif", limit=limit)
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert ("PARTIAL" in drawn.tags()) is partial
    assert result.partial is partial


def test_a_map_is_partial_only_where_samples_of_its_own_were_left_out(tmp_path):
    source = moved(make_source((3, 3, 3)), crs=["EPSG:32631", "EPSG:32632", "EPSG:32632"])
    areas = open_store(make_store(tmp_path / "toy.zarr", source).path, MODEL, limit=2)
    assert [area.limited for area in areas] == [False, True]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("bands", BANDS[:2], "B02,B03"), ("scale", 2.0, "2"), ("offset", -1000.0, "-1000"), ("nodata", 0.0, "0")],
)
def test_how_geotiffs_are_read_is_refused_for_a_store(tmp_path, name, value, told):
    store = make_store(tmp_path / "toy.zarr", make_source((3,)))
    with pytest.raises(UsageError, match=f"--{name} {told}: .*toy.zarr is a store"):
        draw_store(store.path, tmp_path / "map.tif", **{name: value})


def test_gaps_between_samples_are_nodata(tmp_path):
    source = moved(make_source((3, 3)), transform=shifted(0, 300))
    draw_store(make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        values = drawn.read(1)
    assert values.shape == (48, 348)
    assert (values[:, 48:300] == 255).all()


def test_overlapping_samples_are_blended(tmp_path):
    source = moved(make_source((3, 3)), transform=shifted(0, 24))
    (result,) = draw_store(make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    assert result.size == (48, 72)


def test_each_coordinate_system_has_its_map(tmp_path):
    source = moved(make_source((3, 3)), crs=["EPSG:32631", "EPSG:32632"])
    results = draw_store(make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    assert [result.path.name for result in results] == ["map_32631.tif", "map_32632.tif"]
    assert [result.crs for result in results] == ["EPSG:32631", "EPSG:32632"]
    assert all(result.path.exists() and result.confidence.exists() for result in results)


def test_a_synthetic_store_gives_a_map_that_says_so(tmp_path):
    (result,) = draw_store(make_store(tmp_path / "toy.zarr").path, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert drawn.tags()["EOKIT_SYNTHETIC"] == "yes"
    assert result.synthetic


def test_a_store_far_apart_gives_a_picture_of_some_samples(tmp_path):
    source = moved(make_source((3, 3, 3)), transform=shifted(0, 3000, 6000))
    (result,) = draw_store(make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    assert result.picture.stat().st_size > 10_000


def test_a_modality_that_the_model_does_not_take_is_pointed_out(tmp_path):
    (area,) = open_store(make_store(tmp_path / "toy.zarr").path, MODEL)
    assert area.notes == ("s1-asc of the store is not used: the model does not take it",)


def test_a_modality_that_the_store_lacks_is_pointed_out(tmp_path):
    store = make_store(tmp_path / "toy.zarr", make_source((3,)))
    (area,) = open_store(store.path, Preprocessing({"s2": S2, "spot": S2}))
    assert any(note.startswith("spot: not in") for note in area.notes)


def test_samples_without_a_place_say_what_to_do(tmp_path):
    source = moved(make_source((3,)), crs=[None], transform=[None])
    with pytest.raises(DataError, match=r"sample p0 has no place on a pixel grid.*predict from GeoTIFFs"):
        open_store(make_store(tmp_path / "toy.zarr", source).path, MODEL)


def test_samples_of_another_pixel_size_are_refused(tmp_path):
    coarse = (20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0)
    source = moved(make_source((3, 3)), transform=[*shifted(0), coarse])
    with pytest.raises(DataError, match="sample p1 has pixels"):
        open_store(make_store(tmp_path / "toy.zarr", source).path, MODEL)


def test_a_mosaic_too_large_for_one_file_is_refused(tmp_path):
    far = (10.0, 0.0, 500_000.0, 0.0, -10.0, 100.0)
    source = moved(make_source((3, 3)), transform=[(10.0, 0.0, 9_000_000.0, 0.0, -10.0, 5_000_000.0), far])
    with pytest.raises(DataError, match="choose fewer"):
        open_store(make_store(tmp_path / "toy.zarr", source).path, MODEL)


def test_a_store_with_bands_that_are_not_the_models_is_refused(tmp_path):
    store = make_store(tmp_path / "toy.zarr", make_source((3,)))
    with pytest.raises(WeightsError, match="the model was trained"):
        open_store(store.path, Preprocessing({"s2": replace(S2, bands=BANDS[3::-1])}))


def test_a_store_is_read_in_its_own_scale_and_nodata(tmp_path):
    source = make_source()
    halves = replace(source.spec.modalities[0], scale=0.5, nodata=-1)
    other = InHalves(replace(source.spec, modalities=(halves, *source.spec.modalities[1:])), source.entries)
    draw_store(make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    draw_store(make_store(tmp_path / "other.zarr", other).path, tmp_path / "other.tif")
    with rasterio.open(tmp_path / "map.tif") as one, rasterio.open(tmp_path / "other.tif") as two:
        np.testing.assert_array_equal(one.read(1), two.read(1))


def test_a_store_without_any_modality_of_the_model_is_refused(tmp_path):
    store = make_store(tmp_path / "toy.zarr", make_source((3,)))
    with pytest.raises(WeightsError, match="no modality in common"):
        open_store(store.path, Preprocessing({"spot": S2}))


class InHalves(MemorySource):
    """The same samples, Sentinel-2 stored in halves with -1 for nodata."""

    def read(self, entry, modality):
        values = pixels(entry.id, make_source().spec.modalities[modality != "s2"], len(entry.days[modality]))
        return values if modality != "s2" else np.where(values == NODATA, -1, 2 * values).astype(np.int16)


class Brighter(MemorySource):
    """The same samples on the same dates, their pixels a little brighter."""

    def read(self, entry, modality):
        values = super().read(entry, modality)
        return np.where(values == NODATA, values, values + 1)


def replaced(store: Store) -> None:
    source = make_source()
    make_store(store.path, Brighter(source.spec, source.entries), overwrite=True)


def test_a_finished_map_is_not_taken_for_one_of_another_store_at_the_same_place(tmp_path):
    store = make_store(tmp_path / "toy.zarr")
    draw_store(store.path, tmp_path / "map.tif")
    replaced(store)
    with pytest.raises(UsageError, match="of other data"):
        draw_store(store.path, tmp_path / "map.tif", resume=True)


def test_a_map_is_not_continued_with_another_store_at_the_same_place(tmp_path):
    store = make_store(tmp_path / "toy.zarr")
    with pytest.raises(Interrupted):
        draw_store(store.path, tmp_path / "map.tif", StopsAfter(1), batch_size=1)
    replaced(store)
    with pytest.raises(UsageError, match=r"cannot be continued, source\.content was"):
        draw_store(store.path, tmp_path / "map.tif", resume=True, batch_size=1)
