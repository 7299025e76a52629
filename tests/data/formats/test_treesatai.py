"""TreeSatAI-TS: patches of three sensors on 60 m, linear radar, genera above 7 %."""

import json
from typing import ClassVar

import h5py
import numpy as np
import pytest

from eokit.data.formats import treesatai
from eokit.data.formats.treesatai import check, open_source
from eokit.data.formats.treesatai_labels import GENERA, LABELS
from eokit.data.preprocessing import NODATA
from eokit.errors import DataError, SetupError
from tests.data.formats.contract import FormatContract, cut, first, pytest_generate_tests  # noqa: F401


def h5(copy):
    return first(copy, "sentinel-ts/*.h5")


def change(copy, **arrays):
    """Replace arrays of the first h5 file, or remove those that are None; _ stands for -."""
    with h5py.File(h5(copy), "r+") as file:
        for name, array in arrays.items():
            del file[name.replace("_", "-")]
            if array is not None:
                file[name.replace("_", "-")] = array


def options(copy, **chosen):
    path = copy / "eokit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": chosen}))


def missing_series(copy):
    h5(copy).unlink()


def truncated_series(copy):
    cut(h5(copy), 20_000)


def no_h5_at_all(copy):
    h5(copy).write_bytes(b"<html>404</html>")


def series_of_another_shape(copy):
    change(copy, sen_2_data=np.ones((3, 10, 6, 6), np.float32))


def no_radar(copy):
    change(copy, sen_1_asc_data=None)


def dates_that_are_no_products(copy):
    with h5py.File(h5(copy)) as file:
        count = len(file["sen-2-products"])
    change(copy, sen_2_products=[b"S2A_MSIL2A_2020-01-02"] * count)


def impossible_date(copy):
    with h5py.File(h5(copy)) as file:
        count = len(file["sen-2-products"])
    change(copy, sen_2_products=[b"S2A_MSIL2A_20201399T102421"] * count)


def missing_image(copy):
    first(copy, "aerial/*.tif").unlink()


def image_that_is_none(copy):
    first(copy, "aerial/*.tif").write_bytes(b"II*\0 and no more")


def image_of_another_size(copy):
    write_image(first(copy, "aerial/*.tif"), np.zeros((4, 200, 200), np.uint8))


def image_of_three_bands(copy):
    write_image(first(copy, "aerial/*.tif"), np.zeros((3, 304, 304), np.uint8))


def image_of_another_dtype(copy):
    write_image(first(copy, "aerial/*.tif"), np.zeros((4, 304, 304), np.uint16))


def write_image(path, image):
    import rasterio

    profile = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype.name}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:25832", transform=rasterio.Affine(1, 0, 5, 0, -1, 5), **profile
    ) as file:
        file.write(image)


def edit_labels(copy, value, drop=False):
    path = copy / LABELS
    table = json.loads(path.read_text())
    name = h5(copy).stem + ".tif"
    table = {key: shares for key, shares in table.items() if key != name} if drop else table | {name: value}
    path.write_text(json.dumps(table))


def missing_label(copy):
    edit_labels(copy, None, drop=True)


def unknown_genus(copy):
    edit_labels(copy, [["Sequoia", 0.5]])


def label_without_shares(copy):
    edit_labels(copy, ["Abies"])


def share_that_is_no_share(copy):
    edit_labels(copy, [["Abies", float("nan")]])


def labels_that_are_no_json(copy):
    (copy / LABELS).write_text("<html>404</html>")


def no_list_of_the_test(copy):
    (copy / "split/test_filenames.lst").unlink()


def unknown_option(copy):
    options(copy, clouds=60)


def impossible_option(copy):
    options(copy, cloud_nodata="many")


class TestTreeSatAI(FormatContract):
    name = "treesatai"
    damages: ClassVar = {
        missing_series: r"\.h5: no such file.*again",
        truncated_series: r"\.h5: cannot be read as an h5 file \(.*again",
        no_h5_at_all: r"\.h5: cannot be read as an h5 file",
        series_of_another_shape: r"\.h5: sen-2-data has shape \(3, 10, 6, 6\), expected \(\d+, 10, 6, 6\)",
        no_radar: r"\.h5: no array sen-1-asc-data; it has sen-1-asc-products, ",
        dates_that_are_no_products: r"sen-2-products: 'S2A_MSIL2A_2020-01-02' is no Sentinel product name",
        impossible_date: r"sen-2-products: '20201399' is no date",
        missing_image: r"aerial/.*\.tif: no such file",
        image_that_is_none: r"aerial/.*\.tif: cannot be read as a GeoTIFF",
        image_of_another_size: r"\.tif: 4 bands of 200 x 200 px, expected 4 bands of 304 x 304 px",
        image_of_three_bands: r"\.tif: 3 bands of 304 x 304 px, expected 4 bands",
        image_of_another_dtype: r"\.tif: dtype uint16, expected uint8",
        missing_label: r"multi_labels\.json: no label of .*\.tif, which is in split",
        unknown_genus: r"\.tif: unknown genus 'Sequoia'; known are Abies, ",
        label_without_shares: r"\.tif: \['Abies'\], expected \[\[",
        share_that_is_no_share: r"Abies has the share nan, expected 0 to 1",
        labels_that_are_no_json: r"multi_labels\.json: cannot be read as JSON",
        no_list_of_the_test: r"test_filenames\.lst: cannot be read",
        unknown_option: r"eokit\.json: unknown option 'clouds'; options here: aerial_bands",
        impossible_option: r"cloud_nodata is 'many', expected such as 60",
    }

    def test_reflectance_passes_unchanged_and_radar_is_in_decibel(self, whole):
        source = open_source(whole)
        entry = next(one for one in source.entries if one.id == h5(whole).stem)
        with h5py.File(h5(whole)) as file:
            reflectance, power = file["sen-2-data"][:], file["sen-1-asc-data"][:]
        stored = source.read(entry, "s2")
        np.testing.assert_array_equal(stored[stored != NODATA], reflectance[stored != NODATA])
        radar = source.read(entry, "s1-asc") * source.spec.modalities[2].scale
        assert np.abs(radar - 10 * np.log10(power)).max() <= 1 / 512 + 1e-4

    def test_the_image_is_cut_to_the_ground_of_the_series(self, whole):
        import rasterio

        source = open_source(whole)
        entry = source.entries[0]
        with rasterio.open(whole / f"aerial/{entry.id}.tif") as image:
            published, corner = image.read(), image.xy(2, 2, offset="ul")
        np.testing.assert_array_equal(source.read(entry, "aerial")[0], published[:, 2:302, 2:302])
        assert entry.transform[2::3] == pytest.approx(corner)
        assert entry.footprint.is_valid

    def test_nan_and_zero_power_are_nodata_in_both_bands(self, copy):
        with h5py.File(h5(copy), "r+") as file:
            file["sen-1-des-data"][0, 0, 1, 1] = np.nan
            file["sen-1-des-data"][0, 1, 2, 2] = 0
        source = open_source(copy)
        entry = next(one for one in source.entries if one.id == h5(copy).stem)
        stored = source.read(entry, "s1-des")
        assert (stored[0, :, 1, 1] == NODATA).all()
        assert (stored[0, :, 2, 2] == NODATA).all()
        assert (stored == NODATA).sum() == 4

    def test_a_patch_that_sentinel_2_never_saw_is_refused(self, copy):
        with h5py.File(h5(copy), "r+") as file:
            file["sen-2-data"][:] = np.nan
        source = open_source(copy)
        entry = next(one for one in source.entries if one.id == h5(copy).stem)
        with pytest.raises(DataError, match=r"\.h5: no valid pixel in any of its \d+ dates"):
            source.read(entry, "s2")

    def test_dates_out_of_order_take_their_pixels_with_them(self, copy):
        with h5py.File(h5(copy), "r+") as file:
            backwards = {name: file[name][:][::-1] for name in ("sen-2-data", "sen-2-products")}
        straight = open_source(copy)
        entry = next(one for one in straight.entries if one.id == h5(copy).stem)
        before = straight.read(entry, "s2")
        change(copy, **{name.replace("-", "_"): array for name, array in backwards.items()})
        turned = open_source(copy)
        again = next(one for one in turned.entries if one.id == h5(copy).stem)
        np.testing.assert_array_equal(again.days["s2"], entry.days["s2"])
        np.testing.assert_array_equal(turned.read(again, "s2"), before)

    def test_genera_up_to_seven_percent_do_not_count(self, copy):
        edit_labels(copy, [["Fagus", 0.93], ["Tilia", 0.07]])
        source = open_source(copy)
        entry = next(one for one in source.entries if one.id == h5(copy).stem)
        assert [GENERA[k] for k in np.flatnonzero(source.read_labels(entry)["multilabel"])] == ["Fagus"]

    def test_a_patch_without_any_genus_is_left_out_and_noted(self, copy):
        edit_labels(copy, [["Fagus", 0.05]])
        source = open_source(copy)
        assert len(source.entries) == self.patches - 1
        assert any("have no genus above 7%" in note for note in source.notes)
        assert check(copy).lines == []

    def test_clouds_become_nodata_on_request_only(self, copy):
        hidden = {}
        for limit in (None, 60):
            options(copy, cloud_nodata=limit)
            source = open_source(copy)
            hidden[limit] = sum((source.read(entry, "s2") == NODATA).sum() for entry in source.entries)
        assert hidden[60] > hidden[None]

    def test_bands_of_the_image_can_be_named_otherwise(self, copy):
        assert open_source(copy).spec.modalities[0].bands == ("NIR", "G", "B", "R")
        options(copy, aerial_bands=["NIR", "R", "G", "B"])
        assert open_source(copy).spec.modalities[0].bands == ("NIR", "R", "G", "B")

    def test_a_patch_in_two_lists_stays_in_the_first(self, copy):
        train, test = (copy / f"split/{name}_filenames.lst" for name in ("train", "test"))
        twice = train.read_text().splitlines()[0]
        test.write_text(f"{test.read_text()}{twice}\n")
        source = open_source(copy)
        assert len(source.entries) == self.patches
        assert next(one.fold for one in source.entries if f"{one.id}.tif" == twice) == 1
        assert any("test_filenames.lst: 1 of its patches" in note for note in source.notes)

    def test_without_images_the_series_are_prepared(self, copy):
        (copy / "aerial").rename(copy / "photos")
        source = open_source(copy)
        assert [one.name for one in source.spec.modalities] == ["s2", "s1-asc", "s1-des"]
        assert any("no folder aerial" in note for note in source.notes)

    def test_an_image_cut_off_is_a_data_error_that_names_the_file(self, copy):
        path = first(copy, "aerial/*.tif")
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2])
        source = open_source(copy)
        entry = next(one for one in source.entries if one.id == path.stem)
        with pytest.raises(DataError, match=r"aerial/.*\.tif: cannot be read"):
            source.read(entry, "aerial")

    def test_without_h5py_the_error_says_how_to_install_it(self, whole, monkeypatch):
        import sys

        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(SetupError, match=r"h5py.*pip install 'eokit\[geo\]'"):
            open_source(whole)


@pytest.mark.shared
def test_the_real_patch_is_read_whole(shared):
    source = open_source(shared("treesatai-ts"))
    assert source.spec.title == treesatai.INFO.title
    assert not source.spec.synthetic
    (entry,) = source.entries
    assert (entry.crs, len(entry.days["s2"])) == ("EPSG:25832", 146)
    assert {one.name: source.read(entry, one.name).shape for one in source.spec.modalities} == {
        "aerial": (1, 4, 300, 300),
        "s2": (146, 10, 6, 6),
        "s1-asc": (60, 2, 6, 6),
        "s1-des": (86, 2, 6, 6),
    }
    assert [GENERA[k] for k in np.flatnonzero(source.read_labels(entry)["multilabel"])] == ["Abies"]
