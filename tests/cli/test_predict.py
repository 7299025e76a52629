"""`eokit predict` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine

from eokit.data.preprocessing import NODATA
from eokit.models.bundle import load_bundle, save_bundle
from eokit.models.registry import build_encoder
from eokit.tasks.classification import ClassificationModel
from eokit.tasks.segmentation import SegmentationModel
from eokit.tasks.task import Task
from tests.mapping.scenes import BANDS, preprocessing, smooth_pixels, write_scene, write_tiff

CLASSES = ("background", "meadow", "maize", "void")
ENCODER = {"modalities": {"s2": 4}, "width": 16, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(5)
    model = SegmentationModel(build_encoder("cropsts", None, ENCODER), Task(CLASSES, ignore=3))
    return save_bundle(tmp_path_factory.mktemp("bundle") / "b", model.to_bundle(preprocessing(), {"synthetic": False}))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return write_scene(tmp_path_factory.mktemp("scene") / "season", 90, 130)


def test_json_is_the_only_thing_on_stdout(eokit, bundle, scene, tmp_path):
    code, out, _ = eokit("predict", bundle, scene, "map.tif", "--json")
    (told,) = json.loads(out)["maps"]
    assert code == 0
    assert told["path"] == "map.tif"
    assert sum(one["hectares"] for one in told["classes"]) == pytest.approx(90 * 130 / 100)
    assert (tmp_path / "map.png").exists()


def test_the_summary_names_classes_and_paths(eokit, bundle, scene):
    code, out, _ = eokit("predict", bundle, scene, "map.tif")
    assert code == 0
    assert all(word in out for word in ("hectares", "confidence", "90 x 130 px in EPSG:32631", "map_confidence.tif"))


def test_a_dry_run_tells_grid_tiles_and_dates_and_writes_nothing(eokit, bundle, scene, tmp_path):
    code, out, _ = eokit("predict", bundle, scene, "map.tif", "--dry-run", "--tile", 64, "--overlap", 16)
    assert code == 0
    told = ("90 x 130 px of 10 x 10 m", "s2 3", "6 of 64 px", "memory", "nothing was written")
    assert all(word in out for word in told)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_what_a_run_would(eokit, bundle, scene, tmp_path):
    (tmp_path / "map.tif").write_text("mine")
    assert eokit("predict", bundle, scene, "map.tif", "--dry-run")[0] == 2


def test_quiet_prints_nothing(eokit, bundle, scene):
    assert eokit("predict", bundle, scene, "map.tif", "-q") == (0, "", "")


def test_void_is_never_on_the_map(eokit, bundle, scene, tmp_path):
    eokit("predict", bundle, scene, "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert not np.isin(drawn.read(1), (3, 255)).any()


def test_a_patch_that_is_less_than_half_seen_on_every_date_is_nodata(eokit, bundle, tmp_path):
    pixels = smooth_pixels(0, 32, 32)
    pixels[:, 8:12, 8:12] = NODATA
    pixels[:, 8, 8:12] = 900  # four of its sixteen pixels
    pixels[:, 16:18, 16:20] = NODATA  # half of another patch
    write_tiff(tmp_path / "in" / "20200113.tif", pixels, BANDS)
    eokit("predict", bundle, "in", "map.tif", "--tile", 32, "--overlap", 0)
    expected = np.zeros((32, 32), bool)
    expected[8:12, 8:12] = expected[16:18, 16:20] = True
    for name in ("map.tif", "map_confidence.tif"):
        with rasterio.open(tmp_path / name) as drawn:
            np.testing.assert_array_equal(drawn.read(1) == 255, expected)


def test_a_scene_that_is_no_whole_number_of_patches_is_drawn_to_its_edge(eokit, bundle, tmp_path):
    write_scene(tmp_path / "in", 33, 37)
    eokit("predict", bundle, "in", "map.tif")
    with rasterio.open(tmp_path / "map.tif") as drawn:
        assert (drawn.read(1) != 255).all()


def test_without_a_name_the_map_is_called_like_its_source(eokit, bundle, scene, tmp_path):
    assert eokit("predict", bundle, scene)[0] == 0
    assert (tmp_path / "season.tif").exists()


def test_notes_go_to_people(eokit, bundle, tmp_path):
    write_tiff(tmp_path / "in" / "20200113.tif", smooth_pixels(0, 40, 40, 12))
    _, out, err = eokit("predict", bundle, "in", "map.tif")
    assert "note: the files do not name their 12 bands" in err
    assert "note" not in out


def two_grids(folder: Path) -> None:
    write_tiff(folder / "20200113.tif", smooth_pixels(0, 40, 40), BANDS)
    other = Affine(10, 0, 600_005, 0, -10, 5_000_000)
    write_tiff(folder / "20200213.tif", smooth_pixels(0, 40, 40), BANDS, transform=other)


def no_date(folder: Path) -> None:
    write_tiff(folder / "mosaic.tif", smooth_pixels(0, 40, 40), BANDS)


def cut_short(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 9999, (4, 90, 90), np.int16)
    path = write_tiff(folder / "20200113.tif", pixels, BANDS)
    path.write_bytes(path.read_bytes()[:9000])


def missing_band(folder: Path) -> None:
    write_tiff(folder / "20200113.tif", smooth_pixels(0, 40, 40, 3), BANDS[:3])


def fractions(folder: Path) -> None:
    write_tiff(folder / "20200113.tif", smooth_pixels(0, 40, 40).astype(np.float32) / 10_000, BANDS)


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (two_grids, 3, "20200213.tif: geotransform"),
        (no_date, 3, "mosaic.tif: no date"),
        (cut_short, 3, "20200113.tif"),
        (missing_band, 4, "band B08 is missing"),
        (fractions, 2, "--scale 10000"),
        (Path.mkdir, 3, "no GeoTIFF here"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_scene_that_cannot_be_mapped_is_one_line(eokit, bundle, tmp_path, make, code, said):
    make(tmp_path / "in")
    got, out, err = eokit("predict", bundle, "in", "map.tif")
    assert (got, out) == (code, "")
    assert said in err
    assert err.startswith("eokit: ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_bundle_without_a_head_says_to_fine_tune(eokit, bundle, scene, tmp_path):
    pretrained = load_bundle(bundle)
    pretrained.task, pretrained.head = None, {}
    save_bundle(tmp_path / "encoder", pretrained)
    code, _, err = eokit("predict", "encoder", scene, "map.tif")
    assert code == 4
    assert "eokit finetune" in err


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_bundle_for_whole_samples_draws_no_map(eokit, bundle, scene, tmp_path, kind):
    made = load_bundle(bundle)
    task = Task(CLASSES, head="linear", label="genus", kind=kind)
    save_bundle(tmp_path / "b", ClassificationModel(made.encoder, task).to_bundle(made.preprocessing, {}))
    code, _, err = eokit("predict", "b", scene, "map.tif")
    assert code == 2
    assert "tells classes of whole samples and draws no map; score it with eokit evaluate" in err


def test_a_map_that_is_there_is_kept(eokit, bundle, scene, tmp_path):
    (tmp_path / "map.tif").write_text("mine")
    code, _, err = eokit("predict", bundle, scene, "map.tif")
    assert code == 2
    assert "--overwrite" in err
    assert (tmp_path / "map.tif").read_text() == "mine"


def test_an_unknown_device_is_a_usage_error(eokit, bundle, scene):
    assert eokit("predict", bundle, scene, "map.tif", "--device", "tpu9")[0] == 2


@pytest.mark.parametrize("option", ["--scale", "--offset"])
def test_a_scale_that_is_no_number_is_refused(eokit, bundle, scene, option):
    code, _, err = eokit("predict", bundle, scene, "map.tif", option, "nan")
    assert code == 2
    assert f"{option[2:]} = nan" in err


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_resume_gives_the_uninterrupted_map(eokit, bundle, tmp_path):
    folder = write_scene(tmp_path / "in", 1000, 128, dates=("20200113",))
    small = ("--tile", "32", "--overlap", "8", "--batch-size", "1", "--quiet")
    command = [sys.executable, "-m", "eokit_cli.main", "predict", str(bundle), str(folder), "map.tif", *small]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    progress = tmp_path / "map.tif.partial" / "progress.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (progress.exists() and json.loads(progress.read_text())["done"]):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "--resume" in err
    assert not (tmp_path / "map.tif").exists()
    assert eokit("predict", bundle, folder, "map.tif", *small, "--resume")[0] == 0
    assert eokit("predict", bundle, folder, "whole.tif", *small)[0] == 0
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
