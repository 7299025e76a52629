"""FLAIR-2: images and labels cut to 100 m, the super-patch of an area, the baseline's classes and cloud filter."""

import json
import shutil
from typing import ClassVar

import numpy as np
import pytest

from eokit.data.formats.flair import OTHER, open_source
from eokit.data.formats.flair_tree import CENTROIDS, METADATA, SPLITS
from eokit.data.preprocessing import NODATA
from eokit.errors import DataError
from tests.data.formats.contract import FormatContract, cut, first, pytest_generate_tests  # noqa: F401

IMAGE = "flair_aerial_train/D000_2019/Z1_NN/img/IMG_000000.tif"
LABEL = "flair_labels_train/D000_2019/Z1_NN/msk/MSK_000000.tif"
SERIES = "flair_sen_train/D000_2019/Z1_NN/sen/SEN2_sp_D000_2019-Z1_NN_{}"


def entry_of(source, id="IMG_000000"):
    return next(entry for entry in source.entries if entry.id == id)


def edit(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def options(copy, **chosen):
    edit(copy / "eokit.json", lambda table: table.update(options=chosen))


def read_tif(path):
    import rasterio

    with rasterio.open(path) as image:
        return image.read()


def write_tif(path, image):
    import rasterio

    size = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype.name}
    grid = rasterio.Affine(0.2, 0, 5, 0, -0.2, 5)
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:2154", transform=grid, **size) as file:
        file.write(image)


def masks(copy, change):
    path = copy / SERIES.format("masks.npy")
    array = np.load(path)
    change(array)
    np.save(path, array)


def keep_the_first_image(copy):
    """So that a trouble of an area is that of one patch."""
    for file in (IMAGE, LABEL):
        (copy / file.replace("000000", "000001")).unlink()


def image_that_is_none(copy):
    (copy / IMAGE).write_bytes(b"II*\0 and no more")


def image_of_four_bands(copy):
    write_tif(copy / IMAGE, np.zeros((4, 512, 512), np.uint8))


def image_of_another_size(copy):
    write_tif(copy / IMAGE, np.zeros((5, 500, 500), np.uint8))


def missing_label(copy):
    (copy / LABEL).unlink()


def label_of_another_size(copy):
    write_tif(copy / LABEL, np.ones((1, 256, 256), np.uint8))


def missing_series(copy):
    keep_the_first_image(copy)
    (copy / SERIES.format("data.npy")).unlink()


def truncated_series(copy):
    keep_the_first_image(copy)
    cut(copy / SERIES.format("data.npy"))


def series_of_another_shape(copy):
    keep_the_first_image(copy)
    np.save(copy / SERIES.format("data.npy"), np.ones((5, 4, 40, 40), np.uint16))


def masks_of_another_shape(copy):
    keep_the_first_image(copy)
    np.save(copy / SERIES.format("masks.npy"), np.ones((5, 2, 40, 40), np.uint8))


def fewer_products(copy):
    keep_the_first_image(copy)
    path = copy / SERIES.format("products.txt")
    path.write_text("\n".join(path.read_text().splitlines()[1:]))


def products_without_dates(copy):
    keep_the_first_image(copy)
    path = copy / SERIES.format("products.txt")
    path.write_text("\n".join("S2A_MSIL2A" for _ in path.read_text().splitlines()))


def missing_centroid(copy):
    edit(copy / CENTROIDS, lambda table: table.pop("IMG_000000.tif"))


def centroid_at_the_edge(copy):
    edit(copy / CENTROIDS, lambda table: table.update({"IMG_000000.tif": [3, 12]}))


def no_centroids(copy):
    (copy / CENTROIDS).unlink()


def impossible_date(copy):
    edit(copy / METADATA, lambda table: table["IMG_000000"].update(date="2019-13-01"))


def splits_without_lists(copy):
    edit(copy / SPLITS, lambda table: table.update(val="D002_2019"))


def domain_in_two_lists(copy):
    edit(copy / SPLITS, lambda table: table["test"].append("D000_2019"))


class TestFlair(FormatContract):
    name, patches = "flair", 8
    damages: ClassVar = {
        image_that_is_none: r"IMG_000000\.tif: cannot be read as a GeoTIFF",
        image_of_four_bands: r"IMG_000000\.tif: 4 bands of 512 x 512 px, expected 5 bands \(R G B NIR nDSM\)",
        image_of_another_size: r"IMG_000000\.tif: 5 bands of 500 x 500 px, expected 5 bands .* of 512 x 512 px",
        missing_label: r"MSK_000000\.tif: no such file",
        label_of_another_size: r"MSK_000000\.tif: 1 bands of 256 x 256 px, expected 1 band of 512 x 512 px",
        missing_series: r"Z1_NN: 0 files \*data\.npy, expected one",
        truncated_series: r"data\.npy: truncated",
        series_of_another_shape: r"data\.npy: shape \(5, 4, 40, 40\), expected \(T, 10, H, W\)",
        masks_of_another_shape: r"masks\.npy: shape \(5, 2, 40, 40\), expected \(\d+, 2, 40, 40\)",
        fewer_products: r"products\.txt: \d+ products for the \d+ dates of .*data\.npy",
        products_without_dates: r"products\.txt: '_S2A_MSIL2A' is no Sentinel product name",
        missing_centroid: r"IMG_000000\.tif: .*patch\.json has None for it, expected \[row, column\]",
        centroid_at_the_edge: r"IMG_000000\.tif: its centre \[3, 12\] is less than 50 m within its super-patch",
        no_centroids: r"flair-2_centroids_sp_to_patch\.json: no such file",
        impossible_date: r"IMG_000000\.tif: .* has the date '2019-13-01', expected YYYY-MM-DD",
        domain_in_two_lists: r"splits\.json: D000_2019 is in test and in another list",
        splits_without_lists: r"splits\.json: expected \{\"train\": \[",
    }

    def test_image_and_label_are_cut_to_the_same_ground(self, whole):
        source = open_source(whole)
        entry = entry_of(source)
        np.testing.assert_array_equal(source.read(entry, "aerial-flair")[0], read_tif(whole / IMAGE)[:, 6:506, 6:506])
        published = read_tif(whole / LABEL)[0, 6:506, 6:506]
        np.testing.assert_array_equal(source.read_labels(entry)["semantic"], np.minimum(published, 13) - 1)

    def test_the_series_is_the_part_of_the_super_patch_around_the_centre(self, whole):
        source = open_source(whole)
        entry = entry_of(source, "IMG_000001")
        row, column = json.loads((whole / CENTROIDS).read_text())["IMG_000001.tif"]
        part = np.load(whole / SERIES.format("data.npy"))[:, :, row - 5 : row + 5, column - 5 : column + 5]
        stored = source.read(entry, "s2")
        assert len(stored) < len(part)
        assert all((part == one).all(axis=(1, 2, 3)).any() for one in stored)

    def test_values_above_twelve_are_one_ignored_class(self, copy):
        label = read_tif(copy / LABEL)
        label[0, 100:110, 100:110] = 19
        label[0, 120:130, 100:110] = 14
        write_tif(copy / LABEL, label)
        source = open_source(copy)
        labels = source.read_labels(entry_of(source))
        assert (labels["semantic"][94:104, 94:104] == OTHER).all()
        assert (labels["semantic"][114:124, 94:104] == OTHER).all()
        assert source.spec.labels[0].ignore == OTHER
        assert labels["multilabel"].tolist() == [int(k in labels["semantic"]) for k in range(13)]

    @pytest.mark.parametrize("value", [0, 20])
    def test_a_value_that_no_class_has_is_refused(self, copy, value):
        label = read_tif(copy / LABEL)
        label[0, 200, 200] = value
        write_tif(copy / LABEL, label)
        source = open_source(copy)
        with pytest.raises(DataError, match=rf"MSK_000000\.tif: class id {value}, expected 1 to 19"):
            source.read_labels(entry_of(source))

    def test_a_date_that_is_half_snow_and_cloud_together_is_dropped(self, copy):
        row, column = (one - 5 for one in json.loads((copy / CENTROIDS).read_text())["IMG_000000.tif"])

        def cover(array):
            array[:] = 0
            array[0, 0, row : row + 3, column : column + 10] = 60
            array[0, 1, row + 3 : row + 5, column : column + 10] = 100
            array[1, 1, row : row + 4, column : column + 10] = 100
            array[2, 1] = 59

        masks(copy, cover)
        source = open_source(copy)
        every = len(np.load(copy / SERIES.format("data.npy")))
        assert len(entry_of(source).days["s2"]) == every - 1
        options(copy, cloudy_dates="keep")
        assert len(entry_of(open_source(copy)).days["s2"]) == every

    def test_clouds_become_nodata_on_request_only(self, copy):
        def cover(array):
            array[:] = 0
            array[0, 1, 6, 7] = 70

        masks(copy, cover)
        assert (open_source(copy).read(entry_of(open_source(copy)), "s2") != NODATA).all()
        options(copy, cloud_nodata=60)
        source = open_source(copy)
        stored = source.read(entry_of(source), "s2")
        assert (stored[0, :, 0, 0] == NODATA).all()
        assert (stored == NODATA).sum() == 10

    def test_a_patch_without_a_clear_date_has_none_and_it_is_noted(self, copy):
        masks(copy, lambda array: array.fill(100))
        source = open_source(copy)
        assert source.read(entry_of(source), "s2").shape == (0, 10, 10, 10)
        assert any("2 patches (first: IMG_000000) have no date" in note for note in source.notes)

    def test_products_out_of_order_take_their_pixels_with_them(self, copy):
        before = open_source(copy)
        expected = before.read(entry_of(before), "s2")
        for name in ("data.npy", "masks.npy"):
            path = copy / SERIES.format(name)
            np.save(path, np.load(path)[::-1])
        path = copy / SERIES.format("products.txt")
        path.write_text("\n".join(path.read_text().splitlines()[::-1]))
        after = open_source(copy)
        np.testing.assert_array_equal(entry_of(after).days["s2"], entry_of(before).days["s2"])
        np.testing.assert_array_equal(after.read(entry_of(after), "s2"), expected)

    def test_domains_go_to_folds_as_the_splits_say(self, copy):
        assert {one.extra["domain"]: one.fold for one in open_source(copy).entries} == {
            "D000_2019": 1,
            "D001_2019": 1,
            "D002_2019": 2,
            "D003_2019": 3,
        }
        edit(copy / SPLITS, lambda table: table["train"].remove("D001_2019"))
        assert any("does not list 1 domains (first: D001_2019)" in note for note in open_source(copy).notes)
        (copy / SPLITS).unlink()
        source = open_source(copy)
        assert {one.fold for one in source.entries} == {1, 3}
        assert any("no splits.json" in note for note in source.notes)

    def test_without_the_series_images_are_prepared(self, copy):
        for folder in ("flair_sen_train", "flair_2_sen_test"):
            shutil.rmtree(copy / folder)
        (copy / CENTROIDS).unlink()
        source = open_source(copy)
        assert [one.name for one in source.spec.modalities] == ["aerial-flair"]
        assert len(source.entries) == self.patches
        assert any("no folder flair_sen_train" in note for note in source.notes)

    def test_without_metadata_images_get_the_summer_of_their_domain(self, copy):
        (copy / METADATA).unlink()
        source = open_source(copy)
        assert entry_of(source).days["aerial-flair"] == np.datetime64("2019-07-01").astype(int)
        assert any(METADATA in note for note in source.notes)

    def test_a_test_without_labels_is_left_out_and_noted(self, copy):
        shutil.rmtree(copy / "flair_2_labels_test")
        source = open_source(copy)
        assert {one.fold for one in source.entries} == {1, 2}
        assert any("flair_2_labels_test: its 2 patches are left out" in note for note in source.notes)

    def test_the_grid_is_that_of_the_first_modality(self, whole):
        aerial, series = (entry_of(open_source(whole, modalities=[name])) for name in ("aerial-flair", "s2"))
        assert (aerial.transform[0], series.transform[0]) == pytest.approx((0.2, 10.0))
        assert aerial.transform[2::3] == series.transform[2::3]
