"""What every verb does with damaged stores, other models' weights and places that cannot be written.

What is wrong with a data set itself is in test_prepare.py, with a folder of GeoTIFFs in test_predict.py.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import eokit.files
import eokit.models.bundle
import eokit.training.checkpoint
from tests.training.labelled_stores import labelled_store, random_bundle

LOOP = ("--steps", 2, "--batch-size", 2, "--device", "cpu")
SMALL = (*LOOP, *("-o", "encoder.width=32", "-o", "encoder.depth=1", "-o", "encoder.heads=2"))
VERBS = ("inspect", "pretrain", "finetune", "evaluate", "predict")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr").path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, good) -> Path:
    from eokit.data.store import Store

    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", Store.open(good))


@pytest.fixture
def store(good, tmp_path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(good, tmp_path / "toy.zarr"))


@pytest.fixture
def fitted(eokit, good, bundle) -> Path:
    assert eokit("finetune", bundle, "--data", good, "--out", "fitted", "--workers", 0, *LOOP)[0] == 0
    return Path("fitted")


def command(verb: str, store: Path, bundle: Path, fitted: Path, workers: int = 0) -> tuple[object, ...]:
    """How `verb` is typed for a small store."""
    return {
        "inspect": ("inspect", store, "--plot", "look.png"),
        "pretrain": ("pretrain", "--data", store, "--out", "pre", "--workers", workers, *SMALL),
        "finetune": ("finetune", bundle, "--data", store, "--out", "crops", "--workers", workers, *LOOP),
        "evaluate": ("evaluate", bundle, "--data", store, "--workers", workers, "--out", "scores.json"),
        "predict": ("predict", fitted, store, "map.tif", "--overlap", 0),
    }[verb]


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("eokit: ")]


def corrupt(store: Path) -> None:
    """One bit in the middle of every shard of pixels."""
    for shard in (store / "s2" / "data" / "c").rglob("0"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[len(data) // 3] ^= 16
            shard.write_bytes(data)


def cut(store: Path) -> None:
    """Every shard of pixels loses its end."""
    for shard in (store / "s2" / "data" / "c").rglob("0"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-100])


def newer(store: Path) -> None:
    """The store says that a later eokit wrote it."""
    document = json.loads((store / "zarr.json").read_text())
    (name,) = [name for name in document["attributes"] if "schema" in name]
    document["attributes"][name] = 99
    (store / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("damage", [corrupt, cut])
@pytest.mark.parametrize("verb", VERBS)
def test_a_damaged_shard_is_exit_3_and_names_the_file(eokit, store, bundle, fitted, tmp_path, verb, damage):
    damage(store)
    code, _, err = eokit(*command(verb, store, bundle, fitted))
    assert (code, len(errors(err))) == (3, 1)
    assert "s2/data/c/" in err
    assert "prepare the store again" in err
    assert not {"pre/bundle", "crops", "scores.json", "map.tif", "look.png"} & set(made(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pretrain", "finetune", "evaluate"])
def test_a_damaged_shard_that_a_loader_process_meets_is_the_same_line(eokit, store, bundle, fitted, verb):
    corrupt(store)
    code, _, err = eokit(*command(verb, store, bundle, fitted, workers=1))
    assert (code, len(errors(err))) == (3, 1)
    assert "s2/data/c/" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_of_a_newer_schema_is_exit_3(eokit, store, bundle, fitted, verb):
    newer(store)
    code, _, err = eokit(*command(verb, store, bundle, fitted))
    assert (code, len(errors(err))) == (3, 1)
    assert "99" in errors(err)[0]


def made(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = {
    "pretrain": (eokit.training.checkpoint, "save_file"),
    "finetune": (eokit.models.bundle, "save_file"),
    "evaluate": (eokit.files.Path, "write_text"),
    "inspect": ("matplotlib.figure.Figure", "savefig"),
    "predict": ("rasterio.shutil", "copy"),
}


UNFINISHED = ("pre", "crops.run", "map.tif.partial")
"""What runs and maps keep to go on from; none of it passes for a bundle or a map."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_exit_3_and_leaves_nothing_that_looks_whole(
    eokit, good, bundle, fitted, tmp_path, monkeypatch, verb
):
    where, name = FULL[verb]
    monkeypatch.setattr(*((f"{where}.{name}",) if isinstance(where, str) else (where, name)), no_room)
    before = set(made(tmp_path))
    code, _, err = eokit(*command(verb, good, bundle, fitted))
    assert (code, len(errors(err))) == (3, 1)
    assert "No space left on device" in err
    assert "make room" in err
    left = sorted(set(made(tmp_path)) - before)
    assert [name for name in left if not name.startswith(UNFINISHED)] == []
    assert not [name for name in left if ".tmp" in name]


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_that_cannot_be_written_is_exit_3(eokit, good, bundle, fitted, tmp_path, verb):
    (tmp_path / "file").write_text("no folder")
    places = ("pre", "crops", "scores.json", "map.tif", "look.png")
    typed = [f"file/{word}" if word in places else word for word in command(verb, good, bundle, fitted)]
    code, _, err = eokit(*typed)
    assert (code, len(errors(err))) == (3, 1)
    assert "file" in errors(err)[0]
    assert (tmp_path / "file").read_text() == "no folder"


def lose_a_tensor(tensors):
    del tensors["encoder.trunk.norm.weight"]


def gain_a_tensor(tensors):
    tensors["encoder.trunk.gate"] = tensors["encoder.trunk.norm.weight"].clone()


@pytest.mark.parametrize(
    ("change", "said"), [(lose_a_tensor, "missing trunk.norm.weight"), (gain_a_tensor, "unexpected trunk.gate")]
)
@pytest.mark.parametrize("verb", ["finetune", "evaluate", "predict"])
def test_weights_of_another_model_are_exit_4_with_the_differing_keys(
    eokit, good, bundle, fitted, tmp_path, verb, change, said
):
    other, other_fitted = (Path(shutil.copytree(one, tmp_path / f"other-{one.name}")) for one in (bundle, fitted))
    for one in (other, other_fitted):
        tensors = load_file(one / "weights.safetensors")
        change(tensors)
        save_file(tensors, one / "weights.safetensors")
    code, _, err = eokit(*command(verb, good, other, other_fitted))
    assert (code, len(errors(err))) == (4, 1)
    assert said in err


def test_a_run_goes_on_with_its_own_model_only(eokit, good, tmp_path):
    run = ("pretrain", "--data", good, "--out", "run", "--workers", 0)
    assert eokit(*run, *SMALL)[0] == 0
    code, _, err = eokit(*run, *SMALL, "-o", "encoder.depth=2", "--resume", "auto")
    assert (code, len(errors(err))) == (4, 1)
    assert "encoder.depth = 2 (the run has 1)" in err
