"""What the synthetic season leaves on the disk: the published layout, the same bytes, or one clear refusal."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
import shapely
from pyproj import Transformer

from eokit.data.crops import VOID
from eokit.data.synthetic import write_synthetic_pastis
from eokit.errors import ArgumentError, DataError

SMALL = {"patches": 2, "size": 16, "dates": (4, 6)}


def metadata(tree):
    return json.loads((tree / "metadata.geojson").read_text())


def properties(tree):
    return [feature["properties"] for feature in metadata(tree)["features"]]


def in_utm(feature):
    """The footprint of a patch in its UTM zone."""
    to_utm = Transformer.from_crs(2154, 32631, always_xy=True).transform
    return shapely.transform(shapely.geometry.shape(feature["geometry"]), to_utm, interleaved=False)


def digest(tree):
    files = sorted(file for file in tree.rglob("*") if file.is_file())
    return {str(file.relative_to(tree)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_patch_has_every_file_that_pastis_r_has(season):
    for one in properties(season):
        name = one["ID_PATCH"]
        for folder, stem in (("DATA_S2", "S2"), ("DATA_S1A", "S1A"), ("DATA_S1D", "S1D"), ("ANNOTATIONS", "TARGET"),
                             ("ANNOTATIONS", "ParcelIDs"), ("INSTANCE_ANNOTATIONS", "INSTANCES")):  # fmt: skip
            assert (season / folder / f"{stem}_{name}.npy").is_file()


def test_arrays_have_the_published_shapes_and_types(season):
    for one in properties(season):
        name, dates = one["ID_PATCH"], len(one["dates-S2"])
        s2 = np.load(season / f"DATA_S2/S2_{name}.npy")
        assert (s2.shape, s2.dtype) == ((dates, 10, 48, 48), np.int16)
        for orbit in ("S1A", "S1D"):
            s1 = np.load(season / f"DATA_{orbit}/{orbit}_{name}.npy")
            assert (s1.shape, s1.dtype) == ((len(one[f"dates-{orbit}"]), 3, 48, 48), np.float16)
        target = np.load(season / f"ANNOTATIONS/TARGET_{name}.npy")
        assert (target.shape, target.dtype) == ((3, 48, 48), np.uint8)
        assert np.load(season / f"ANNOTATIONS/ParcelIDs_{name}.npy").dtype == np.int32


def test_the_third_radar_channel_is_the_difference_of_the_first_two(season):
    s1 = np.load(next((season / "DATA_S1A").iterdir())).astype(np.float32)
    assert np.abs(s1[:, 2] - (s1[:, 0] - s1[:, 1])).max() < 0.05  # float16 keeps 1/64 dB around 30


def test_the_metadata_say_synthetic_and_lambert_93(season):
    facts = metadata(season)
    assert facts["synthetic"] is True
    assert facts["crs"]["properties"]["name"].endswith("EPSG::2154")
    assert "SYNTHETIC" in (season / "README.txt").read_text()


def test_footprints_are_squares_of_the_patch_size_in_utm(season):
    for feature in metadata(season)["features"]:
        assert feature["geometry"]["type"] == "MultiPolygon"
        square = in_utm(feature)
        west, south, east, north = square.bounds
        assert square.area == pytest.approx(480**2, rel=1e-6)
        assert (east - west, north - south) == (pytest.approx(480, abs=1e-3), pytest.approx(480, abs=1e-3))


def test_neighbouring_patches_of_a_tile_adjoin(season):
    squares = {f["id"]: in_utm(f).buffer(0.01) for f in metadata(season)["features"]}
    for tile in ("1", "2"):
        inside = [name for name in squares if name.startswith(tile)]
        assert all(squares[one].intersects(squares[next_]) for one, next_ in pairwise(inside))


def test_dates_are_strictly_sorted(season):
    for one in properties(season):
        for sensor in ("S2", "S1A", "S1D"):
            days = list(one[f"dates-{sensor}"].values())
            assert all(earlier < later for earlier, later in pairwise(days))
            assert list(one[f"dates-{sensor}"]) == [str(number) for number in range(len(days))]


def test_dates_differ_between_tiles_and_between_sensors(season):
    first, last = properties(season)[0], properties(season)[-1]
    assert first["TILE"] != last["TILE"]
    for sensor in ("S2", "S1A", "S1D"):
        assert first[f"dates-{sensor}"] != last[f"dates-{sensor}"]
    assert first["dates-S1A"] != first["dates-S1D"]


def test_every_patch_sees_as_many_dates_as_asked_for(season):
    assert all(18 <= len(one["dates-S2"]) <= 24 for one in properties(season))


def test_folds_are_all_there_when_there_are_patches_enough(tmp_path):
    tree = write_synthetic_pastis(tmp_path / "tree", patches=10, size=16, dates=(2, 2), modalities=("s2",))
    assert {one["Fold"] for one in properties(tree)} == {1, 2, 3, 4, 5}


def test_void_parcels_touch_the_edge_of_their_patch(season):
    voids = 0
    for one in properties(season):
        target = np.load(season / f"ANNOTATIONS/TARGET_{one['ID_PATCH']}.npy")[0]
        parcel = np.load(season / f"ANNOTATIONS/ParcelIDs_{one['ID_PATCH']}.npy")
        edge = np.concatenate([parcel[0], parcel[-1], parcel[:, 0], parcel[:, -1]])
        void = np.unique(parcel[target == VOID])
        voids += len(void)
        assert set(void) <= set(edge)
    assert voids


def test_parcels_are_parted_by_background(season):
    for one in properties(season):
        parcel = np.load(season / f"ANNOTATIONS/ParcelIDs_{one['ID_PATCH']}.npy")
        for here, beside in ((parcel[:, :-1], parcel[:, 1:]), (parcel[:-1], parcel[1:])):
            assert not ((here != beside) & (here > 0) & (beside > 0)).any()


def test_a_parcel_has_one_class(season):
    for one in properties(season):
        target = np.load(season / f"ANNOTATIONS/TARGET_{one['ID_PATCH']}.npy")[0]
        parcel = np.load(season / f"ANNOTATIONS/ParcelIDs_{one['ID_PATCH']}.npy")
        assert all(len(np.unique(target[parcel == number])) == 1 for number in np.unique(parcel) if number)
        assert not target[parcel == 0].any()


def test_norm_files_hold_the_moments_of_their_fold(season):
    fold = properties(season)[0]["Fold"]
    images = [np.load(season / f"DATA_S2/S2_{p['ID_PATCH']}.npy") for p in properties(season) if p["Fold"] == fold]
    pixels = np.concatenate([np.moveaxis(image, 1, -1).reshape(-1, 10) for image in images]).astype(np.float64)
    pixels = pixels[pixels[:, 0] > -10000]
    norm = json.loads((season / "NORM_S2_patch.json").read_text())[f"Fold_{fold}"]
    np.testing.assert_allclose(norm["mean"], pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm["std"], pixels.std(0), rtol=1e-4)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    one = write_synthetic_pastis(tmp_path / "one", **SMALL, seed=3)
    two = write_synthetic_pastis(tmp_path / "two", **SMALL, seed=3)
    assert digest(one) == digest(two)


def test_another_seed_gives_other_land(tmp_path):
    one = write_synthetic_pastis(tmp_path / "one", **SMALL, seed=3, modalities=("s2",))
    two = write_synthetic_pastis(tmp_path / "two", **SMALL, seed=4, modalities=("s2",))
    changed = {name for name, value in digest(two).items() if digest(one).get(name) != value}
    assert {"DATA_S2/S2_10000.npy", "ANNOTATIONS/TARGET_10000.npy", "metadata.geojson"} <= changed


@pytest.mark.slow
def test_workers_change_no_byte(tmp_path):
    one = write_synthetic_pastis(tmp_path / "one", **SMALL, workers=1)
    two = write_synthetic_pastis(tmp_path / "two", **SMALL, workers=2)
    assert digest(one) == digest(two)


def test_only_the_modalities_asked_for_are_written(tmp_path):
    tree = write_synthetic_pastis(tmp_path / "tree", **SMALL, modalities=("s1-des",))
    assert sorted(folder.name for folder in tree.glob("DATA_*")) == ["DATA_S1D"]
    assert not any("dates-S2" in one for one in properties(tree))


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        write_synthetic_pastis(tmp_path / "tree", **SMALL)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"modalities": ("s3",)}, "s3"),
        ({"modalities": ()}, "modalities"),
        ({"patches": 0}, "patches=0"),
        ({"size": 4}, "size=4"),
        ({"dates": (9, 5)}, r"\(9, 5\)"),
        ({"dates": (200, 200)}, "200"),
        ({"folds": 0}, "folds=0"),
    ],
)
def test_arguments_that_cannot_be_are_named(tmp_path, wrong, named):
    with pytest.raises(ArgumentError, match=named):
        write_synthetic_pastis(tmp_path / "tree", **(SMALL | wrong))
    assert not (tmp_path / "tree").exists()
