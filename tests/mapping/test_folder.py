"""A folder of GeoTIFFs becomes a scene, or says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine

from eokit.data.preprocessing import NODATA, Input, Preprocessing
from eokit.errors import DataError, UsageError, WeightsError
from eokit.mapping.folder import open_folder
from eokit.mapping.geotiff import Reading
from eokit.mapping.scene import Window
from tests.mapping.scenes import BANDS, preprocessing, smooth_pixels, write_scene, write_tiff

ALL = Window(0, 0, 20, 30)
L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


def pixels(seed: int = 0, bands: int = 4) -> np.ndarray:
    return smooth_pixels(seed, 20, 30, bands)


def open_scene(folder: Path, **reading):
    return open_folder(folder, preprocessing(), Reading(**reading))


def read(folder: Path, window: Window = ALL, **reading) -> np.ndarray:
    return open_scene(folder, **reading).scenes[0].scene.read("s2", window)


def test_dates_are_in_order_whatever_the_names(tmp_path):
    for number, name in enumerate(["b_20200113", "a_20210101", "c_20191231"]):
        write_tiff(tmp_path / f"{name}.tif", pixels(number), BANDS)
    values = read(tmp_path)
    np.testing.assert_array_equal(values, np.stack([pixels(2), pixels(0), pixels(1)]))


def test_the_map_has_the_grid_of_the_files(tmp_path):
    area = open_scene(write_scene(tmp_path))
    assert (area.height, area.width) == (100, 150)
    assert area.transform == (10, 0, 600_000, 0, -10, 5_000_000)


def test_bands_are_picked_by_their_descriptions(tmp_path):
    shuffled = ("B08", "SCL", "B04", "b2", "B03 (green)")
    write_tiff(tmp_path / "20200113.tif", pixels(bands=5), shuffled)
    np.testing.assert_array_equal(read(tmp_path)[0], pixels(bands=5)[[3, 4, 2, 0]])


def test_bands_are_picked_by_the_given_names(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=5))
    given = ("B08", "cloud", "B04", "B02", "B03")
    np.testing.assert_array_equal(read(tmp_path, bands=given)[0], pixels(bands=5)[[3, 4, 2, 0]])


def test_twelve_nameless_bands_are_taken_for_level_2a_and_it_is_said(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=12))
    area = open_scene(tmp_path)
    wanted = [L2A.index(band) for band in BANDS]
    np.testing.assert_array_equal(area.scenes[0].scene.read("s2", ALL)[0], pixels(bands=12)[wanted])
    assert any("assumed sentinel-2 B01,B02" in note for note in area.notes)


def test_one_file_a_band_is_one_image(tmp_path):
    for number, band in enumerate(BANDS):
        write_tiff(tmp_path / f"T31TFJ_20200113T104321_{band}_10m.tif", pixels()[number : number + 1])
    values = read(tmp_path)
    assert values.shape == (1, 4, 20, 30)
    np.testing.assert_array_equal(values[0], pixels())


def test_subfolders_are_modalities(tmp_path):
    both = Preprocessing(
        preprocessing().inputs | {"s1-asc": Input("sentinel-1", ("VV", "VH"), (-10.0, -17.0), (3.0, 3.0), 1 / 256)}
    )
    write_tiff(tmp_path / "s2" / "20200113.tif", pixels(), BANDS)
    decibels = np.full((2, 20, 30), -12.5, np.float32)
    write_tiff(tmp_path / "s1-asc" / "20200114.tif", decibels, ("VV", "VH"))
    scene = open_folder(tmp_path, both, Reading()).scenes[0].scene
    assert {key: days.tolist() for key, days in scene.days.items()} == {"s2": [18274], "s1-asc": [18275]}
    assert (scene.read("s1-asc", ALL) == -12.5 * 256).all()


def test_a_modality_that_is_not_there_is_left_out_and_it_is_said(tmp_path):
    both = Preprocessing({"s1-asc": Input("sentinel-1", ("VV",), (0.0,), (1.0,)), **preprocessing().inputs})
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS)
    area = open_folder(tmp_path, both, Reading())
    assert list(area.scenes[0].scene.days) == ["s2"]
    assert any("no s1-asc" in note for note in area.notes)


def test_a_window_is_the_same_part_of_the_whole(tmp_path):
    write_scene(tmp_path)
    whole = read(tmp_path, Window(0, 0, 100, 150))
    np.testing.assert_array_equal(read(tmp_path, Window(13, 57, 40, 31)), whole[:, :, 13:53, 57:88])


@pytest.mark.parametrize(
    ("value", "options"),
    [(-32768, {}), (-10_000, {}), (777, {"nodata": 777}), (0, {})],
    ids=["fill", "pastis", "declared", "all-zero"],
)
def test_an_unseen_pixel_is_nodata_in_all_bands(tmp_path, value, options):
    values = pixels()
    values[:, 3, 4] = value
    write_tiff(tmp_path / "20200113.tif", values, BANDS, **options)
    got = read(tmp_path)
    assert (got[0, :, 3, 4] == NODATA).all()
    assert (got == NODATA).sum() == 4


def test_one_band_without_data_makes_the_pixel_unseen(tmp_path):
    values = pixels().astype(np.float32)
    values[2, 3, 4] = np.nan
    write_tiff(tmp_path / "20200113.tif", values, BANDS)
    assert (read(tmp_path)[0, :, 3, 4] == NODATA).all()


def test_a_dark_band_of_zero_is_a_value(tmp_path):
    values = pixels()
    values[3, 3, 4] = 0
    write_tiff(tmp_path / "20200113.tif", values, BANDS, nodata=0)
    assert read(tmp_path)[0, 3, 3, 4] == 0


def test_reflectance_of_zero_to_one_is_refused_with_the_way_out(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels().astype(np.float32) / 10_000, BANDS)
    with pytest.raises(UsageError, match="--scale 10000"):
        open_scene(tmp_path)


def test_scale_and_offset_give_reflectance_times_ten_thousand(tmp_path):
    write_tiff(tmp_path / "20200113.tif", (pixels().astype(np.float32) + 1000) / 10_000, BANDS)
    np.testing.assert_array_equal(read(tmp_path, scale=10_000, offset=-1000)[0], pixels())


def test_values_beyond_sixteen_bits_are_clipped_and_stay_valid(tmp_path):
    values = pixels().astype(np.uint16)
    values[0, 0, 0] = 65_000
    write_tiff(tmp_path / "20200113.tif", values, BANDS)
    assert read(tmp_path)[0, 0, 0, 0] == 32_767


def test_a_missing_band_is_named(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=3), ("B02", "B03", "B04"))
    with pytest.raises(WeightsError, match=r"band B08 is missing, found B02 B03 B04"):
        open_scene(tmp_path)


def test_nameless_bands_of_an_unusual_count_ask_for_names(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=5))
    with pytest.raises(WeightsError, match=r"5 bands have no names.*--bands"):
        open_scene(tmp_path)


def test_too_few_given_names_are_refused(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=5))
    with pytest.raises(DataError, match="has 5 bands, --bands names 2"):
        open_scene(tmp_path, bands=("B02", "B03"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crs": "EPSG:32632"}, r"coordinate system EPSG:32632, but 20200113.tif has EPSG:32631"),
        ({"transform": Affine(10, 0, 600_010, 0, -10, 5_000_000)}, r"geotransform \(10, 0, 600010"),
        ({"transform": Affine(20, 0, 600_000, 0, -20, 5_000_000)}, r"geotransform \(20"),
    ],
    ids=["crs", "shift", "pixel size"],
)
def test_a_file_on_another_grid_is_named_with_what_differs(tmp_path, change, said):
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS)
    write_tiff(tmp_path / "20200114.tif", pixels(), BANDS, **change)
    with pytest.raises(DataError, match=f"20200114.tif: {said}"):
        open_scene(tmp_path)


def test_a_file_of_another_size_is_named_with_both_sizes(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS)
    write_tiff(tmp_path / "20200114.tif", pixels()[:, :, :-1], BANDS)
    with pytest.raises(DataError, match=r"20200114.tif: rows x columns \(20, 29\), but 20200113.tif has \(20, 30\)"):
        open_scene(tmp_path)


def test_a_file_with_other_bands_is_named(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(bands=10))
    write_tiff(tmp_path / "20200114.tif", pixels(bands=9))
    with pytest.raises(WeightsError, match=r"20200114.tif: its 9 bands"):
        open_scene(tmp_path)


def test_a_file_cut_short_is_refused_before_any_pixel_is_read(tmp_path):
    path = write_tiff(
        tmp_path / "20200113.tif", np.random.default_rng(0).integers(1, 9999, (4, 200, 200), np.int16), BANDS
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"20200113.tif: (cut short|is no GeoTIFF)"):
        open_scene(tmp_path)


def test_a_file_damaged_inside_is_named_when_it_is_read(tmp_path):
    path = write_tiff(
        tmp_path / "20200113.tif", np.random.default_rng(0).integers(1, 9999, (4, 200, 200), np.int16), BANDS
    )
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(whole)
    scene = open_scene(tmp_path).scenes[0].scene
    with pytest.raises(DataError, match=r"20200113.tif: cannot be read"):
        scene.read("s2", Window(0, 0, 200, 200))


def test_text_with_the_name_of_a_tiff_is_refused(tmp_path):
    (tmp_path / "20200113.tif").write_text("no picture")
    with pytest.raises(DataError, match=r"20200113.tif: is no GeoTIFF that can be read"):
        open_scene(tmp_path)


def test_a_file_without_date_is_named(tmp_path):
    write_tiff(tmp_path / "mosaic.tif", pixels(), BANDS)
    with pytest.raises(DataError, match=r"mosaic.tif: no date in its name"):
        open_scene(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no GeoTIFF here"):
        open_scene(tmp_path)


def test_a_file_without_coordinate_system_is_refused(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS, crs=None)
    with pytest.raises(DataError, match="has no coordinate system"):
        open_scene(tmp_path)


def test_a_tag_says_that_pixels_were_made_up(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS)
    write_tiff(tmp_path / "20200213.tif", pixels(), BANDS, tags={"EOKIT_SYNTHETIC": "yes"})
    assert open_scene(tmp_path).synthetic


def test_a_name_does_not_say_that_pixels_were_made_up(tmp_path):
    write_tiff(tmp_path / "synthetic_aperture_20200113.tif", pixels(), BANDS)
    assert not open_scene(tmp_path).synthetic


def test_coarser_pixels_than_the_training_are_pointed_out(tmp_path):
    write_tiff(tmp_path / "20200113.tif", pixels(), BANDS, transform=Affine(30, 0, 600_000, 0, -30, 5_000_000))
    assert any("pixels are 30 m" in note for note in open_scene(tmp_path).notes)


@pytest.mark.shared
def test_a_real_scene_in_degrees_opens_and_reads(shared):
    area = open_folder(shared("scene-geotiff"), preprocessing(), Reading())
    assert (area.height, area.width) == (377, 380)
    values = area.scenes[0].scene.read("s2", Window(100, 100, 64, 64))
    assert values.shape == (6, 4, 64, 64)
    assert not any("pixels are" in note for note in area.notes)
