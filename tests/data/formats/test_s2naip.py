"""S2NAIP: four sensors on 640 m, dates from an index, time on the band axis, coarse bands brought to 10 m."""

import json
import warnings
from typing import ClassVar

import numpy as np
import pytest

from eokit.data.formats.s2naip import open_source
from eokit.data.preprocessing import NODATA
from eokit.errors import DataError
from tests.data.formats.contract import FormatContract, cut, first, pytest_generate_tests  # noqa: F401

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def index(copy):
    return json.loads((copy / "train_dict.json").read_text())


def change_index(copy, change):
    table = index(copy)
    change(table)
    (copy / "train_dict.json").write_text(json.dumps(table))


def tile(copy):
    return index(copy)["name"][0]


def options(copy, **chosen):
    path = copy / "eokit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"options": chosen}))


def read_tif(path):
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as image:
            return image.read()


def write_tif(path, image):
    import rasterio

    size = {"count": len(image), "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **size) as file:
            file.write(image)


def entry_of(source, copy):
    return next(entry for entry in source.entries if entry.id == tile(copy))


def missing_naip(copy):
    (copy / f"naip/{tile(copy)}.png").unlink()


def naip_that_is_none(copy):
    (copy / f"naip/{tile(copy)}.png").write_bytes(b"\x89PNG and no more")


def missing_coarse_bands(copy):
    (copy / f"sentinel2/{tile(copy)}_16.tif").unlink()


def truncated_header(copy):
    path = copy / f"landsat/{tile(copy)}_8.tif"
    path.write_bytes(path.read_bytes()[:6])


def radar_of_another_size(copy):
    write_tif(copy / f"sentinel1/{tile(copy)}.tif", np.zeros((8, 32, 32), np.float32))


def radar_in_integers(copy):
    write_tif(copy / f"sentinel1/{tile(copy)}.tif", np.zeros((8, 64, 64), np.int16))


def fewer_dates_than_bands(copy):
    change_index(copy, lambda table: table["s2_dates"][0].pop())


def impossible_date(copy):
    change_index(copy, lambda table: table["l8_dates"][0].__setitem__(1, 20190231))


def dates_that_are_no_list(copy):
    change_index(copy, lambda table: table["s1_dates"].__setitem__(0, 20190201))


def name_that_is_no_cell(copy):
    change_index(copy, lambda table: table["name"].__setitem__(0, "chip_7"))


def names_twice(copy):
    change_index(copy, lambda table: table["name"].__setitem__(1, table["name"][0]))


def fewer_rows_than_names(copy):
    change_index(copy, lambda table: table["s2_dates"].pop())


def index_that_is_no_json(copy):
    (copy / "val_dict.json").write_text("<html>404</html>")


def no_index(copy):
    for path in copy.glob("*_dict.json"):
        path.unlink()


class TestS2naip(FormatContract):
    name = "s2naip"
    damages: ClassVar = {
        missing_naip: r"\.png: no such file",
        naip_that_is_none: r"\.png: cannot be read as a PNG",
        missing_coarse_bands: r"sentinel2/.*_16\.tif: no such file",
        truncated_header: r"landsat/.*_8\.tif: cannot be read as a GeoTIFF",
        radar_of_another_size: r"sentinel1/.*\.tif: 32 x 32 px, expected 64 x 64 px",
        radar_in_integers: r"sentinel1/.*\.tif: dtype int16, expected float32 or float64",
        fewer_dates_than_bands: r"_8\.tif: \d+ bands, expected \d+ dates of 4 \(B02 B03 B04 B08\)",
        impossible_date: r"l8_dates of .*: '20190231' is no date, expected YYYYMMDD",
        dates_that_are_no_list: r"s1_dates of .* is 20190201, expected \[20200412, \.\.\.\]",
        name_that_is_no_cell: r"tile 'chip_7' in the index, expected <EPSG>_<column>_<row>",
        names_twice: r"train_dict\.json: tile .* is listed twice",
        fewer_rows_than_names: r"train_dict\.json: s2_dates has not one list for each of the 2 names",
        index_that_is_no_json: r"val_dict\.json: cannot be read as JSON",
        no_index: r"no \{train,val,test\}_dict\.json, without which tiles have no dates",
    }

    def test_bands_of_10_m_pass_unchanged_and_those_of_20_m_keep_their_mean(self, whole):
        source = open_source(whole)
        entry = entry_of(source, whole)
        stored = source.read(entry, "s2").astype(float)
        fine = read_tif(whole / f"sentinel2/{entry.id}_8.tif").reshape(-1, 4, 64, 64)
        coarse = read_tif(whole / f"sentinel2/{entry.id}_16.tif").reshape(-1, 6, 32, 32)
        np.testing.assert_array_equal(stored[:, [BANDS.index(band) for band in ("B02", "B03", "B04", "B08")]], fine)
        doubled = stored[:, [BANDS.index(band) for band in ("B05", "B06", "B07", "B8A", "B11", "B12")]]
        np.testing.assert_allclose(doubled.mean(axis=(2, 3)), coarse.mean(axis=(2, 3)), rtol=0.01)

    def test_coarse_bands_are_interpolated_as_torch_does(self, copy):
        import torch

        path = copy / f"sentinel2/{tile(copy)}_16.tif"
        coarse = np.random.default_rng(0).integers(1, 9000, read_tif(path).shape).astype(np.uint16)
        write_tif(path, coarse)
        source = open_source(copy)
        stored = source.read(entry_of(source, copy), "s2")[:, BANDS.index("B11")]
        ours = torch.from_numpy(coarse.reshape(-1, 6, 32, 32)[:, 4:5].astype(np.float32))
        theirs = torch.nn.functional.interpolate(ours, scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
        assert np.abs(stored - theirs.numpy()).max() <= 0.51

    def test_landsat_starts_with_the_panchromatic_band(self, whole):
        source = open_source(whole)
        entry = entry_of(source, whole)
        np.testing.assert_array_equal(source.read(entry, "l8")[:, 0], read_tif(whole / f"landsat/{entry.id}_8.tif"))
        assert source.spec.modalities[3].bands[:2] == ("B8", "B1")

    def test_radar_has_its_ratio_as_third_band(self, whole):
        source = open_source(whole)
        entry = entry_of(source, whole)
        pair = read_tif(whole / f"sentinel1/{entry.id}.tif").reshape(-1, 2, 64, 64)
        expected = np.concatenate([pair, pair[:, :1] - pair[:, 1:]], axis=1)
        assert np.abs(source.read(entry, "s1") / 256 - expected).max() <= 1 / 512 + 1e-4

    def test_empty_pixels_are_nodata_in_all_bands(self, copy):
        id = tile(copy)
        for name, at in ((f"sentinel2/{id}_16.tif", (3, 5, 6)), (f"landsat/{id}_8.tif", (0, 9, 9))):
            image = read_tif(copy / name)
            image[at] = 0
            write_tif(copy / name, image)
        radar = read_tif(copy / f"sentinel1/{id}.tif")
        radar[0, 1, 1], radar[0:2, 2, 2] = -np.inf, 0
        write_tif(copy / f"sentinel1/{id}.tif", radar)
        source = open_source(copy)
        read = {name: source.read(entry_of(source, copy), name) for name in ("s2", "s1", "l8")}
        assert (read["s2"][0, :, 10:12, 12:14] == NODATA).all()
        assert (read["s2"] == NODATA).sum() == 40
        assert (read["s1"][0, :, [1, 2], [1, 2]] == NODATA).all()
        assert (read["s1"] == NODATA).sum() == 6
        assert (read["l8"][0, :, 9, 9] == 0).all()
        assert (read["l8"] == 0).sum() == 11

    def test_linear_radar_is_refused_and_can_be_declared(self, copy):
        path = copy / f"sentinel1/{tile(copy)}.tif"
        pair = read_tif(path)
        write_tif(path, 10 ** (pair / 10))
        source = open_source(copy)
        with pytest.raises(DataError, match=r'no radar value is below 0.*"radar": "linear"'):
            source.read(entry_of(source, copy), "s1")
        options(copy, radar="linear")
        source = open_source(copy)
        vv = source.read(entry_of(source, copy), "s1")[:, 0] / 256
        assert np.abs(vv - pair[::2]).max() <= 1 / 512 + 1e-3

    def test_dates_out_of_order_take_their_pixels_with_them(self, copy):
        before = open_source(copy)
        expected = before.read(entry_of(before, copy), "s1")
        path = copy / f"sentinel1/{tile(copy)}.tif"
        write_tif(path, read_tif(path).reshape(-1, 2, 64, 64)[::-1].reshape(-1, 64, 64))
        change_index(copy, lambda table: table["s1_dates"][0].reverse())
        after = open_source(copy)
        np.testing.assert_array_equal(entry_of(after, copy).days["s1"], entry_of(before, copy).days["s1"])
        np.testing.assert_array_equal(after.read(entry_of(after, copy), "s1"), expected)

    def test_a_tile_without_radar_has_no_dates_of_it(self, copy):
        change_index(copy, lambda table: table["s1_dates"].__setitem__(0, []))
        (copy / f"sentinel1/{tile(copy)}.tif").unlink()
        source = open_source(copy)
        assert source.read(entry_of(source, copy), "s1").shape == (0, 3, 64, 64)

    def test_the_name_of_a_tile_tells_its_place(self, copy):
        old = tile(copy)
        change_index(copy, lambda table: table["name"].__setitem__(0, "32612_960_-6049"))
        for path in copy.rglob(f"{old}*"):
            path.rename(path.with_name(path.name.replace(old, "32612_960_-6049")))
        entry = entry_of(open_source(copy), copy)
        assert entry.crs == "EPSG:32612"
        assert entry.transform == (1.25, 0.0, 614400.0, 0.0, -1.25, 3871360.0)
        assert -110 < entry.footprint.centroid.x < -109
        series = entry_of(open_source(copy, modalities=["s2"]), copy)
        assert series.transform == (10.0, 0.0, 614400.0, 0.0, -10.0, 3871360.0)

    def test_the_day_of_naip_is_that_of_the_middle_date_or_of_the_option(self, copy):
        source = open_source(copy)
        entry = entry_of(source, copy)
        assert entry.days["naip"].tolist() == [entry.days["s2"][len(entry.days["s2"]) // 2]]
        assert any("days of NAIP images" in note for note in source.notes)
        options(copy, naip_date="20200715")
        assert entry_of(open_source(copy), copy).days["naip"] == np.datetime64("2020-07-15").astype(int)
        options(copy, naip_date="20201315")
        with pytest.raises(DataError, match=r"naip_date: '20201315' is no date"):
            open_source(copy)

    def test_without_any_date_an_image_needs_the_option(self, copy):
        change_index(copy, lambda table: [table[key].__setitem__(0, []) for key in table if key != "name"])
        with pytest.raises(DataError, match=r'no series tells when .* was seen; say "naip_date"'):
            open_source(copy)
        options(copy, naip_date="20200715")
        assert len(open_source(copy).entries) == self.patches

    def test_a_copy_without_landsat_is_prepared_and_it_is_noted(self, copy):
        (copy / "landsat").rename(copy / "l8")
        source = open_source(copy)
        assert [one.name for one in source.spec.modalities] == ["naip", "s2", "s1"]
        assert any("no folder of l8" in note for note in source.notes)

    def test_pixels_cut_off_are_a_data_error_that_names_the_file(self, copy):
        path = first(copy, f"sentinel1/{tile(copy)}.tif")
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2] + b"\0" * (size - size // 2))
        source = open_source(copy)
        with pytest.raises(DataError, match=r"sentinel1/.*\.tif: cannot be read"):
            source.read(entry_of(source, copy), "s1")
