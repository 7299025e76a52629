"""`eokit prepare`: what it writes, what it refuses, and what it says."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from eokit.data.formats import FORMATS
from eokit.data.store import Store
from eokit_cli.main import main
from tests.cli.stopping import stop
from tests.data.formats import trees
from tests.data.formats.test_pastis_damage import DAMAGES


@pytest.fixture
def eokit(monkeypatch, capsys, tmp_path):
    """`eokit("prepare", ...)` in an empty folder, with the exit code and the lines on stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EOKIT_DATA", raising=False)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["eokit", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


@pytest.fixture
def tree(tmp_path):
    return trees.make_tree(tmp_path / "PASTIS-R")


def test_a_tree_becomes_a_store_with_the_same_pixels(eokit, tree, tmp_path):
    code, out, _ = eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1)
    assert code == 0
    assert "next: eokit inspect" in out
    store = Store.open(tmp_path / "p.zarr")
    assert store.ids == ["10000", "10001", "20000", "30000"]
    np.testing.assert_array_equal(store.read("s2", 1), np.load(trees.path_of(tree, "s2", 10001)))
    np.testing.assert_array_equal(store.read_label("semantic", 1), np.load(tree / "ANNOTATIONS/TARGET_10001.npy")[0])


def test_json_tells_what_was_written(eokit, tree, tmp_path):
    code, out, _ = eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["samples"], result["folds"]) == (4, [1, 2, 3, 4])
    assert result["modalities"]["s2"]["dates"] == [6, 6]
    assert Path(result["store"]).is_dir()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_copy_is_exit_3_and_leaves_nothing(eokit, tree, tmp_path, damage):
    damage(tree)
    code, out, err = eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1)
    assert code == 3
    assert out == ""
    assert len([line for line in err if line.startswith("eokit: ")]) == 1
    assert not list(tmp_path.glob("p.zarr*"))


def clouds_only(tree):
    trees.save(tree, "s2", 10001, np.full((6, 10, 8, 8), -10000, np.int16))


def unknown_class(tree):
    trees.save_label(tree, "ANNOTATIONS/TARGET", 10001, np.full((3, 8, 8), 20, np.uint8))


@pytest.mark.parametrize(("damage", "said"), [(clouds_only, "no valid pixel"), (unknown_class, "class id 20")])
def test_damage_inside_the_pixels_is_exit_3_and_no_store(eokit, tree, tmp_path, damage, said):
    damage(tree)
    code, _, err = eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1, "-q")
    assert code == 3
    assert len(err) == 1
    assert said in err[0]
    assert "_10001.npy" in err[0]
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.parametrize("damage", [clouds_only, unknown_class])
def test_a_broken_patch_can_be_skipped(eokit, tree, tmp_path, damage):
    damage(tree)
    code, _, err = eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1, "--on-error", "skip")
    assert code == 0
    assert any("10001" in line for line in err)
    assert "10001" not in Store.open(tmp_path / "p.zarr").ids


def test_modalities_and_limit_narrow_what_is_written(eokit, tree, tmp_path):
    eokit("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1, "--modalities", "s2", "--limit", 2)
    store = Store.open(tmp_path / "p.zarr")
    assert (list(store.modalities), len(store)) == (["s2"], 2)


def test_an_existing_store_is_kept_unless_overwritten(eokit, tree, tmp_path):
    arguments = ("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1)
    assert eokit(*arguments, "--limit", 1)[0] == 0
    code, _, err = eokit(*arguments)
    assert code != 0
    assert any("--overwrite" in line for line in err)
    assert len(Store.open(tmp_path / "p.zarr")) == 1
    assert eokit(*arguments, "--overwrite")[0] == 0
    assert len(Store.open(tmp_path / "p.zarr")) == 4


def test_an_existing_store_is_refused_before_a_season_is_made(eokit, tmp_path):
    (tmp_path / "p.zarr").mkdir()
    code, _, err = eokit("prepare", "synthetic", tmp_path / "p.zarr")
    assert code == 2
    assert len(err) == 1


def test_resume_of_a_finished_part_gives_the_same_store(eokit, tree, tmp_path):
    arguments = ("prepare", "pastis", tree, tmp_path / "p.zarr", "--workers", 1)
    good = np.load(tree / "ANNOTATIONS/TARGET_30000.npy")
    trees.save_label(tree, "ANNOTATIONS/TARGET", 30000, np.full_like(good, 99))
    assert eokit(*arguments)[0] == 3
    trees.save_label(tree, "ANNOTATIONS/TARGET", 30000, good)
    assert eokit(*arguments, "--resume")[0] == 0
    store = Store.open(tmp_path / "p.zarr")
    np.testing.assert_array_equal(store.read_label("semantic", 3), good[0])
    np.testing.assert_array_equal(store.read("s2", 3), np.load(trees.path_of(tree, "s2", 30000)))


def test_a_dry_run_writes_nothing(eokit, tree, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = eokit("prepare", "pastis", tree, "--dry-run")
    assert code == 0
    assert "4 patches" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_synthetic_season_leaves_nothing(eokit, tmp_path):
    assert eokit("prepare", "synthetic", "--limit", 1, "--size", 16, "--workers", 1, "--dry-run")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_bytes_before_compression(eokit, tree):
    _, out, _ = eokit("prepare", "pastis", tree, "--dry-run", "--json", "--modalities", "s2")
    assert json.loads(out)["uncompressed_bytes"] == 4 * 6 * 10 * 8 * 8 * 2


def test_without_a_source_the_data_folder_is_searched(eokit, tmp_path):
    trees.make_tree(tmp_path / "data" / "PASTIS-R")
    code, out, _ = eokit("prepare", "pastis", "--workers", 1)
    assert code == 0
    assert "data/pastis.zarr" in out
    assert len(Store.open(tmp_path / "data" / "pastis.zarr")) == 4


def test_eokit_data_is_searched_first(eokit, tree, monkeypatch):
    monkeypatch.setenv("EOKIT_DATA", str(tree.parent))
    code, out, _ = eokit("prepare", "pastis", "--dry-run", "--json")
    assert (code, json.loads(out)["samples"]) == (0, 4)


def test_without_data_it_says_where_to_get_them_and_offers_a_synthetic_season(eokit):
    code, _, err = eokit("prepare", "pastis")
    said = "\n".join(err)
    assert code == 3
    assert all(word in said for word in ("zenodo.org", "29 GB", "54 GB", "Etalab", "--synthetic"))


def test_a_source_that_is_not_there_is_exit_3(eokit, tmp_path):
    code, _, err = eokit("prepare", "pastis", tmp_path / "nowhere")
    assert (code, len(err)) == (3, 1)


def test_an_archive_says_unpack_it(eokit, tmp_path):
    (tmp_path / "PASTIS-R.zip").write_bytes(b"PK")
    code, _, err = eokit("prepare", "pastis", tmp_path / "PASTIS-R.zip")
    assert code == 3
    assert "unpack" in err[0]


def test_an_unknown_data_set_is_a_usage_error_that_lists_the_known_ones(eokit):
    code, _, err = eokit("prepare", "pastiche")
    assert code == 2
    assert "'pastis', 'treesatai'" in "\n".join(err)


@pytest.mark.parametrize("verb", [("prepare",), ("datasets", "info"), ("datasets", "check")])
def test_the_nearest_data_set_is_offered_for_a_mistyped_one(eokit, verb):
    code, _, err = eokit(*verb, "tresatai")
    assert code == 2
    assert err[-1].endswith("Did you mean 'treesatai'?")


def test_the_example_of_a_synthetic_copy_in_the_help_works(eokit, tmp_path):
    text = " ".join(eokit("prepare", "--help")[1].split())
    assert "`eokit prepare treesatai --synthetic trees.zarr`" in text
    assert eokit("prepare", "treesatai", "--synthetic", "trees.zarr", "--limit", 1, "--workers", 1)[0] == 0
    assert Store.open(tmp_path / "trees.zarr").dataset == "treesatai-layout"


@pytest.mark.parametrize("arguments", [("synthetic",), ("pastis", "--synthetic")])
def test_a_synthetic_season_needs_no_data_and_says_what_it_is(eokit, tmp_path, arguments):
    code, out, _ = eokit("prepare", *arguments, "--limit", 2, "--size", 32, "--workers", 1, "--modalities", "s2")
    store = Store.open(tmp_path / "data" / "synthetic.zarr")
    assert code == 0
    assert store.synthetic
    assert "synthetic" in out.lower()
    assert len(store) == 2
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["synthetic.zarr"], "the season itself is removed"


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pastis"])
def test_a_synthetic_copy_of_every_data_set_becomes_a_store(eokit, tmp_path, name):
    code, out, _ = eokit("prepare", name, "--synthetic", "--limit", 1, "--workers", 1)
    store = Store.open(tmp_path / "data" / "synthetic.zarr")
    assert code == 0
    assert store.synthetic
    assert "synthetic" in out.lower()
    assert (len(store), store.dataset) == (1, f"{name}-layout")


def test_a_size_is_refused_where_patches_have_one(eokit, tmp_path):
    code, _, err = eokit("prepare", "treesatai", "--synthetic", "--size", 32, "--workers", 1)
    assert code == 2
    assert "size=32: patches of treesatai have one size" in err[-1]
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize("wrong", [("--seed", -1), ("--size", 0), ("--size", 7)])
def test_a_season_that_cannot_be_is_exit_2(eokit, tmp_path, wrong):
    code, out, err = eokit("prepare", "synthetic", "--limit", 1, "--workers", 1, *wrong)
    assert (code, out) == (2, "")
    assert str(wrong[1]) in err[-1]
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_season_goes_when_its_preparation_is_stopped(tmp_path, asked):
    typed = ["prepare", "synthetic", "--limit", "40", "--workers", "1", "--modalities", "s2"]
    stop(typed, asked, lambda: list(tmp_path.glob("data/.eokit-season-*/*/DATA_S2/*")), cwd=tmp_path)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_synthetic_season_takes_no_source(eokit, tree, tmp_path):
    code, _, err = eokit("prepare", "synthetic", tree, tmp_path / "p.zarr")
    assert code == 2
    assert "reads no source" in err[0]


@pytest.mark.parametrize("library", ["pyproj", "shapely", "rasterio"])
def test_a_missing_geo_library_is_exit_5_and_says_how_to_install_it(eokit, tree, monkeypatch, library):
    trees.add_spot(tree)
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = eokit("prepare", "pastis", tree, "--dry-run")
    assert code == 5
    assert library in err[0]
    assert "pip install 'eokit[geo]'" in err[0]


def test_a_place_that_cannot_be_written_is_exit_3(eokit, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = eokit("prepare", "synthetic", tmp_path / "file" / "p.zarr")
    assert (code, len(err)) == (3, 1)
    assert "cannot be written" in err[0]


@pytest.mark.shared
def test_the_real_sample_is_stored_whole(eokit, tmp_path, shared):
    real = shared("pastis-real")
    assert eokit("prepare", "pastis", real, tmp_path / "p.zarr", "--workers", 1)[0] == 0
    store = Store.open(tmp_path / "p.zarr")
    for number, id in enumerate(store.ids):
        np.testing.assert_array_equal(store.read("s2", number), np.load(real / f"DATA_S2/S2_{id}.npy"))
        radar = store.read("s1-asc", number) * store.modalities["s1-asc"].scale
        assert np.abs(radar - np.load(real / f"DATA_S1A/S1A_{id}.npy").astype(float)).max() <= 1 / 512
        assert store.where(number).crs == "EPSG:32631"


@pytest.mark.shared
def test_third_party_pastis_r_is_refused_line_by_line(eokit, tmp_path, shared):
    code, _, err = eokit("prepare", "pastis", shared("pastis-r-thirdparty") / "PASTIS-R", tmp_path / "p.zarr")
    assert code == 3
    assert [line.startswith("eokit: ") for line in err] == [True] * 3
    assert not list(tmp_path.glob("p.zarr*"))
