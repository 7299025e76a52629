"""`eokit inspect`: the words, the JSON and the picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from eokit.data.describe import describe
from eokit.data.store import Store
from eokit.errors import DataError, UsageError
from eokit_cli.inspect import as_text, command
from tests.data.stores import make_source, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("inspect") / "toy.zarr", make_source(bands=10))


def inspect(*arguments):
    result = CliRunner().invoke(command, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_words_name_sensors_dates_gaps_and_classes(store):
    words = inspect(store.path).stdout
    for part in ("SYNTHETIC", "4 samples", "1: 2  2: 2", "sentinel-2", "0 to 12 dates", "every 5 days", "meadow"):
        assert part in words


def test_real_data_are_not_called_synthetic(store):
    assert "SYNTHETIC" not in as_text(describe(store) | {"synthetic": False, "title": "Real"})


def test_json_on_stdout_is_what_describe_says(store):
    assert json.loads(inspect(store.path, "--json").stdout) == describe(store)


def test_dates_and_gaps_are_counted_over_all_samples(store):
    facts = describe(store)["modalities"]["s2"]
    assert facts["dates"] == [0, 12]
    assert (facts["median_gap_days"], facts["longest_gap_days"]) == (5.0, 5)
    assert (facts["first_day"], facts["last_day"]) == ("2018-09-26", "2018-11-20")


def test_nodata_is_counted_in_pixels(store):
    seen = np.concatenate([(store.read("s2", sample)[:, 0] == -32768).ravel() for sample in range(4)])
    assert describe(store)["modalities"]["s2"]["nodata_share"] == pytest.approx(seen.mean())


def test_class_shares_add_up_to_one(store):
    classes = describe(store)["labels"]["semantic"]["classes"]
    assert sum(row["share"] for row in classes) == pytest.approx(1.0)
    assert [row["name"] for row in classes] == ["background", "meadow", "corn", "void"]


def test_the_size_on_disk_is_that_of_the_files(store):
    size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    assert describe(store)["bytes_on_disk"] == size


def test_a_picture_is_drawn_where_asked_for(store, tmp_path):
    facts = json.loads(inspect(store.path, "--plot", tmp_path / "look.png", "--json").stdout)
    assert facts["picture"] == str(tmp_path / "look.png")
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_a_name_lies_in_the_working_directory(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "toy-quicklook.png" in inspect(store.path, "--plot").stderr
    assert (tmp_path / "toy-quicklook.png").is_file()


def test_a_patch_is_found_by_id_or_number(store, tmp_path):
    for sample in ("p1", "1"):
        inspect(store.path, "--plot", tmp_path / f"{sample}.png", "--sample", sample)


def test_an_unknown_patch_is_named_with_those_there_are(store):
    with pytest.raises(UsageError, match="p0 to p3"):
        inspect(store.path, "--sample", "nowhere")


def test_a_missing_store_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        inspect(tmp_path / "none.zarr")


@pytest.fixture
def copy(store, tmp_path):
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(store.path, tmp_path / "copy.zarr"))


def test_a_whole_store_says_so(store):
    assert f"all {len(store.shards.sizes)} are there and of the right size" in inspect(store.path).stdout


@pytest.mark.parametrize(("left", "what"), [(None, "is missing"), (100, "has 100 bytes, expected ")])
@pytest.mark.parametrize("array", ["s2/data", "labels/semantic"])
def test_a_lost_or_cut_file_is_named_and_the_rest_is_told(eokit, copy, array, left, what):
    shard = next(file for file in (copy / array / "c").rglob("*") if file.is_file())
    whole = shard.read_bytes()
    shard.unlink() if left is None else shard.write_bytes(whole[:left])
    code, out, err = eokit("inspect", copy)
    assert code == 3
    assert f"1 of {len(Store.open(copy).shards.sizes)} DAMAGED" in out
    assert f"eokit: {shard} {what}" in err
    code, out, _ = eokit("inspect", copy, "--json")
    assert (code, len(json.loads(out)["damage"])) == (3, 1)


def test_of_a_store_without_a_list_of_its_files_it_says_that_it_did_not_look(copy):
    root = json.loads((copy / "zarr.json").read_text())
    del root["attributes"]["shard_list"]
    (copy / "zarr.json").write_text(json.dumps(root))
    assert "files             not checked: an older eokit made this store" in inspect(copy).stdout


def test_a_store_without_its_index_says_which_file_is_missing(eokit, copy):
    (copy / "index.parquet").unlink()
    code, _, err = eokit("inspect", copy)
    assert code == 3
    assert err == (
        f"eokit: {copy / 'index.parquet'} is missing, the store is not whole;"
        " prepare the store again with --overwrite, or copy the file anew\n"
    )


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.79, "1.79 times smaller than"), (0.9, "1.11 times larger than"), (0.998, "MB, as large as the raw arrays")],
)
def test_a_store_that_is_larger_than_its_arrays_is_called_larger(store, ratio, words):
    assert words in as_text(describe(store) | {"compression_ratio": ratio})
