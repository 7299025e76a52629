"""Maps on disk: right pixels whatever the tiling, valid COGs, continued exactly, refused in one line."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from eokit.data.preprocessing import NODATA
from eokit.errors import DataError, Interrupted, TargetError, UsageError
from eokit.mapping import draw, progress_file
from eokit.mapping.predict import PredictSettings, predict_with
from tests.mapping.cog_layout import assert_cloud_optimized
from tests.mapping.scenes import (
    CLASSES,
    PixelModel,
    StopsAfter,
    predictor,
    preprocessing,
    smooth_pixels,
    write_scene,
    write_tiff,
)


@pytest.fixture(autouse=True)
def _no_picture(request, monkeypatch):
    """Drawing PNGs takes most of the time of a small map; one test looks at them."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(draw, "draw_map", lambda *_: None)


def settings(folder: Path, out: Path, **changes) -> PredictSettings:
    given = {"tile": 32, "overlap": 8, "quiet": True} | changes
    return PredictSettings(bundle=Path("unused"), source=folder, out=out, **given)


def pixels_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return source.read(1)


def expected_map(folder: Path) -> np.ndarray:
    """The class of every pixel from the whole scene at once: the truth that no tiling may change."""
    import torch

    stacks = []
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as source:
            stacks.append(source.read())
    values, valid = preprocessing().apply("s2", np.stack(stacks))
    assert valid.all()
    weights = PixelModel().weights
    return torch.einsum("kc,chw->khw", weights, torch.from_numpy(values.mean(0))).argmax(0).numpy()


@pytest.mark.parametrize(
    ("tile", "overlap", "batch_size", "workers"), [(32, 8, 0, 2), (64, 0, 3, 0), (48, 24, 1, 1), (256, 32, 0, 2)]
)
def test_tiles_change_nothing_for_a_model_of_single_pixels(tmp_path, tile, overlap, batch_size, workers):
    folder = write_scene(tmp_path / "in")
    plan = {"tile": tile, "overlap": overlap, "batch_size": batch_size, "workers": workers}
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", **plan))
    np.testing.assert_array_equal(pixels_of(tmp_path / "map.tif"), expected_map(folder))


def test_what_a_map_does_not_show_is_said(tmp_path):
    learned = {"train_patches": 4, "train_folds": [1, 2], "dataset": "toy"}
    told = replace(predictor(), learned=learned)
    folder = write_scene(tmp_path / "in")
    notes = predict_with(told, settings(folder, tmp_path / "map.tif"))[0].notes
    assert "the model learned from 4 patches of toy; elsewhere it guesses" in notes
    assert not any("learned" in one for one in predict_with(predictor(), settings(folder, tmp_path / "b.tif"))[0].notes)


def test_the_map_lies_where_the_scene_lies(tmp_path):
    folder = write_scene(tmp_path / "in")
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    with rasterio.open(next(folder.iterdir())) as scene:
        for name in ("map.tif", "map_confidence.tif"):
            with rasterio.open(tmp_path / name) as drawn:
                assert (drawn.crs, drawn.transform, drawn.shape) == (scene.crs, scene.transform, scene.shape)


def test_both_maps_are_cloud_optimized(tmp_path):
    folder = write_scene(tmp_path / "in", 1100, 1300, dates=("20200113",))
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", tile=256, overlap=32))
    for name in ("map.tif", "map_confidence.tif"):
        with rasterio.open(tmp_path / name) as drawn:
            assert drawn.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert drawn.block_shapes == [(512, 512)]
            assert drawn.overviews(1) == [2, 4]
            assert (drawn.dtypes, drawn.nodata) == (("uint8",), 255)
        assert_cloud_optimized(tmp_path / name)


def test_a_plain_tiled_tiff_is_not_taken_for_a_cloud_optimized_one(tmp_path):
    pixels = np.ones((1, 1100, 1300), np.uint8)
    path = write_tiff(tmp_path / "plain.tif", pixels, tiled=True, blockxsize=512, blockysize=512)
    with pytest.raises(AssertionError, match="smallest overview"):
        assert_cloud_optimized(path)
    with rasterio.open(path, "r+") as plain:
        plain.build_overviews([2, 4])
    with pytest.raises(AssertionError, match=r"behind pixels|out of order"):
        assert_cloud_optimized(path)


def test_class_names_lie_beside_the_map_when_it_appears(tmp_path, monkeypatch):
    seen, move = [], Path.replace

    def watched(self, target):
        seen.append(Path(target).name)
        return move(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    predict_with(predictor(), settings(write_scene(tmp_path / "in"), tmp_path / "map.tif"))
    assert seen[-2:] == ["map.tif.aux.xml", "map.tif"]


def test_a_map_carries_colours_class_names_and_categories(tmp_path):
    folder = write_scene(tmp_path / "in")
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    with rasterio.open(tmp_path / "map.tif") as drawn:
        colours = drawn.colormap(1)
        assert len({colours[number] for number in range(len(CLASSES))}) == len(CLASSES)
        assert json.loads(drawn.tags()["CLASS_NAMES"]) == list(CLASSES)
        assert drawn.descriptions == ("class",)
    rasterio.shutil.copy(tmp_path / "map.tif", tmp_path / "seen.vrt", driver="VRT")
    assert "<Category>maize</Category>" in (tmp_path / "seen.vrt").read_text()


def test_a_pixel_is_nodata_only_where_no_date_shows_it(tmp_path):
    folder = tmp_path / "in"
    first, second = smooth_pixels(0, 60, 70), smooth_pixels(1, 60, 70)
    first[:, 10:30, 10:40] = NODATA
    second[:, 20:50, 20:60] = NODATA
    bands = ("B02", "B03", "B04", "B08")
    write_tiff(folder / "20200113.tif", first, bands)
    write_tiff(folder / "20200402.tif", second, bands)
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    unseen = (first[0] == NODATA) & (second[0] == NODATA)
    np.testing.assert_array_equal(pixels_of(tmp_path / "map.tif") == 255, unseen)
    np.testing.assert_array_equal(pixels_of(tmp_path / "map_confidence.tif") == 255, unseen)


def test_tiles_that_no_date_shows_are_not_given_to_the_model(tmp_path):
    values = smooth_pixels(0, 64, 64)
    values[:, :, 32:] = NODATA
    write_tiff(tmp_path / "in" / "20200113.tif", values, ("B02", "B03", "B04", "B08"))
    model = PixelModel()
    predict_with(predictor(model), settings(tmp_path / "in", tmp_path / "map.tif", overlap=0, batch_size=1))
    assert model.batches == 2


def test_dates_are_thinned_evenly_when_asked(tmp_path):
    days = [f"2020{month:02}10" for month in range(1, 8)]
    folder = write_scene(tmp_path / "in", 40, 40, dates=days)
    three = write_scene(tmp_path / "three", 40, 40, dates=days)
    for day in (days[1], days[2], days[4], days[5]):
        (three / f"S2_{day}.tif").unlink()
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", dates=3))
    np.testing.assert_array_equal(pixels_of(tmp_path / "map.tif"), expected_map(three))


def test_a_scene_without_any_seen_pixel_gives_a_map_of_nodata(tmp_path):
    write_tiff(tmp_path / "in" / "20200113.tif", np.zeros((4, 40, 40), np.int16), ("B02", "B03", "B04", "B08"))
    (result,) = predict_with(predictor(), settings(tmp_path / "in", tmp_path / "map.tif"))
    assert (pixels_of(tmp_path / "map.tif") == 255).all()
    assert (result.classes, result.mean_confidence, result.unseen_share) == ((), None, 1.0)


def test_hectares_of_all_classes_are_those_of_the_scene(tmp_path):
    folder = write_scene(tmp_path / "in")
    (result,) = predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    assert sum(one.hectares for one in result.classes) == pytest.approx(100 * 150 * 0.01)
    assert sum(one.share for one in result.classes) == pytest.approx(1, abs=1e-5)


def test_hectares_of_a_scene_in_degrees_are_those_of_the_ellipsoid(tmp_path):
    from pyproj import Geod
    from rasterio.transform import Affine

    step, west, north = 1e-4, 2.79, 42.36
    grid = {"crs": "EPSG:4326", "transform": Affine(step, 0, west, 0, -step, north)}
    write_tiff(tmp_path / "in" / "20200113.tif", smooth_pixels(0, 80, 90), ("B02", "B03", "B04", "B08"), **grid)
    (result,) = predict_with(predictor(), settings(tmp_path / "in", tmp_path / "map.tif"))
    east, south = west + 90 * step, north - 80 * step
    corners = [west, east, east, west], [south, south, north, north]
    square_metres, _ = Geod(ellps="WGS84").polygon_area_perimeter(*corners)
    assert sum(one.hectares for one in result.classes) == pytest.approx(square_metres / 10_000, rel=1e-5)


def test_a_picture_lies_beside_the_map(tmp_path):
    (result,) = predict_with(predictor(), settings(write_scene(tmp_path / "in"), tmp_path / "map.tif"))
    assert result.picture == tmp_path / "map.png"
    assert result.picture.stat().st_size > 10_000


def test_limit_draws_the_first_rows_of_tiles_and_says_so(tmp_path):
    folder = write_scene(tmp_path / "in")
    (result,) = predict_with(predictor(), settings(folder, tmp_path / "map.tif", limit=2))
    drawn = pixels_of(tmp_path / "map.tif")
    assert result.partial
    assert (drawn[:56] != 255).all()
    assert (drawn[56:] == 255).all()


def test_nothing_but_map_confidence_names_and_picture_is_left_behind(tmp_path):
    predict_with(predictor(), settings(write_scene(tmp_path / "in"), tmp_path / "map.tif"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"in", "map.tif", "map.tif.aux.xml", "map_confidence.tif", "map.png"}


def test_an_interrupted_map_says_how_to_go_on_and_leaves_no_map(tmp_path):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(Interrupted, match="--resume"):
        predict_with(predictor(StopsAfter(5)), settings(folder, tmp_path / "map.tif", batch_size=2))
    assert not (tmp_path / "map.tif").exists()


@pytest.mark.parametrize("batches", [0, 1, 5, 11])
def test_a_continued_map_has_the_pixels_of_an_uninterrupted_one(tmp_path, batches):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(Interrupted):
        predict_with(predictor(StopsAfter(batches)), settings(folder, tmp_path / "map.tif", batch_size=2))
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", batch_size=2, resume=True))
    predict_with(predictor(), settings(folder, tmp_path / "whole.tif", batch_size=2))
    for suffix in (".tif", "_confidence.tif"):
        continued, whole = tmp_path / f"map{suffix}", tmp_path / f"whole{suffix}"
        assert continued.read_bytes() == whole.read_bytes()


def test_a_continued_map_does_not_begin_again(tmp_path):
    folder = write_scene(tmp_path / "in")
    whole, rest = PixelModel(), PixelModel()
    predict_with(predictor(whole), settings(folder, tmp_path / "whole.tif", batch_size=2))
    with pytest.raises(Interrupted):
        predict_with(predictor(StopsAfter(whole.batches - 1)), settings(folder, tmp_path / "map.tif", batch_size=2))
    predict_with(predictor(rest), settings(folder, tmp_path / "map.tif", batch_size=2, resume=True))
    assert rest.batches <= whole.batches / 2


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.mapping.scenes import PixelModel, predictor
from tests.mapping.test_predict import settings
from eokit.mapping.predict import predict_with

class Slow(PixelModel):
    def __call__(self, batch):
        if self.batches == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

predict_with(predictor(Slow()), settings(Path(sys.argv[1]), Path(sys.argv[2]), batch_size=2))
"""


@pytest.mark.slow
def test_a_map_continues_after_kill_nine(tmp_path):
    folder = write_scene(tmp_path / "in")
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "map.tif")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -signal.SIGKILL
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", batch_size=2, resume=True))
    predict_with(predictor(), settings(folder, tmp_path / "whole.tif", batch_size=2))
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize(
    ("changes", "identity", "said"),
    [({"tile": 64}, "stub", "tile was 32 and is now 64"), ({}, "other", 'bundle was "stub" and is now "other"')],
)
def test_a_map_is_not_continued_with_something_else(tmp_path, changes, identity, said):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(Interrupted):
        predict_with(predictor(StopsAfter(3)), settings(folder, tmp_path / "map.tif"))
    with pytest.raises(UsageError, match=said):
        predict_with(predictor(identity=identity), settings(folder, tmp_path / "map.tif", resume=True, **changes))


def test_a_map_is_not_continued_on_changed_files(tmp_path):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(Interrupted):
        predict_with(predictor(StopsAfter(3)), settings(folder, tmp_path / "map.tif"))
    time.sleep(0.01)
    write_tiff(folder / "S2_20200113.tif", smooth_pixels(9, 100, 150), ("B02", "B03", "B04", "B08"))
    with pytest.raises(UsageError, match="cannot be continued, source"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif", resume=True))


def test_an_unfinished_map_is_not_thrown_away_unasked(tmp_path):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(Interrupted):
        predict_with(predictor(StopsAfter(3)), settings(folder, tmp_path / "map.tif"))
    with pytest.raises(UsageError, match="--resume to continue it or --overwrite"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif"))


def test_resuming_a_finished_map_changes_nothing(tmp_path):
    folder = write_scene(tmp_path / "in")
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    before = (tmp_path / "map.tif").stat().st_mtime_ns
    model = PixelModel()
    predict_with(predictor(model), settings(folder, tmp_path / "map.tif", resume=True))
    assert (model.batches, (tmp_path / "map.tif").stat().st_mtime_ns) == (0, before)


def test_resuming_a_map_without_its_confidence_is_refused(tmp_path):
    folder = write_scene(tmp_path / "in")
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    (tmp_path / "map_confidence.tif").unlink()
    with pytest.raises(UsageError, match=r"map_confidence.tif: is missing .* --overwrite"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif", resume=True))


def test_resuming_a_map_beside_the_confidence_of_another_one_is_refused(tmp_path):
    folder = write_scene(tmp_path / "in")
    predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    predict_with(predictor(identity="other"), settings(folder, tmp_path / "else.tif"))
    (tmp_path / "else_confidence.tif").replace(tmp_path / "map_confidence.tif")
    with pytest.raises(UsageError, match=r"map_confidence\.tif: is there already and was made by another model"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif", resume=True))


def test_an_existing_map_is_replaced_only_when_asked(tmp_path):
    folder = write_scene(tmp_path / "in")
    (tmp_path / "map.tif").write_text("something else")
    with pytest.raises(UsageError, match="--overwrite"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", overwrite=True))
    np.testing.assert_array_equal(pixels_of(tmp_path / "map.tif"), expected_map(folder))


@pytest.mark.parametrize("out", ["map.png", "map", "in"])
def test_a_map_that_is_no_tif_is_refused(tmp_path, out):
    folder = write_scene(tmp_path / "in")
    with pytest.raises(UsageError, match=r"\.tif"):
        predict_with(predictor(), settings(folder, tmp_path / out))


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        predict_with(predictor(), settings(tmp_path / "nowhere", tmp_path / "map.tif"))


def test_folds_of_a_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="only stores have folds"):
        predict_with(predictor(), settings(write_scene(tmp_path / "in"), tmp_path / "map.tif", folds=(1,)))


def test_a_target_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    folder = write_scene(tmp_path / "in")
    (tmp_path / "file").write_text("")
    model = PixelModel()
    with pytest.raises(TargetError, match="cannot be written"):
        predict_with(predictor(model), settings(folder, tmp_path / "file" / "map.tif"))
    assert model.batches == 0


def test_a_full_disk_is_one_line_and_the_rows_before_it_are_kept(tmp_path, monkeypatch):
    folder = write_scene(tmp_path / "in")
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(progress_file.os, "fsync", full)
        with pytest.raises(TargetError, match="No space left"):
            predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    assert not (tmp_path / "map.tif").exists()
    predict_with(predictor(), settings(folder, tmp_path / "map.tif", resume=True))
    np.testing.assert_array_equal(pixels_of(tmp_path / "map.tif"), expected_map(folder))


def test_a_file_that_breaks_while_it_is_read_leaves_no_map(tmp_path):
    folder = write_scene(tmp_path / "in", 300, 300)
    path = folder / "S2_20200402.tif"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"S2_20200402.tif: cannot be read"):
        predict_with(predictor(), settings(folder, tmp_path / "map.tif"))
    assert not (tmp_path / "map.tif").exists()
