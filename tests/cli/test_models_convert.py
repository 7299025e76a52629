"""`eokit models convert` as it is typed, on random weights in the published layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eokit.models.anysat.model import EVERY_SENSOR
from eokit.models.bundle import OpenPreprocessing, load_bundle, save_bundle
from eokit.models.registry import build_encoder
from eokit.tasks.segmentation import SegmentationModel
from eokit.tasks.task import Task
from tests.mapping.scenes import write_scene
from tests.models.anysat_files import bare, full, published
from tests.tasks.many_sensors import many_sensors


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder("anysat", None, {"width": 64, "depth": 1})


@pytest.fixture(scope="module")
def weights(tmp_path_factory, encoder):
    file = tmp_path_factory.mktemp("published") / "AnySat.pth"
    torch.save(bare(published(encoder)), file)
    return file


def test_every_tensor_of_the_bundle_is_that_of_the_file(eokit, encoder, weights, tmp_path):
    count = len(encoder.state_dict())
    code, out, err = eokit("models", "convert", "anysat", weights, "anysat")
    assert code == 0
    assert out.splitlines()[0] == f"{count} of {count} tensors match"
    assert "no statistics" in err
    made = load_bundle(tmp_path / "anysat")
    assert isinstance(made.preprocessing, OpenPreprocessing)
    assert made.encoder.modalities == tuple(EVERY_SENSOR)
    assert all(torch.equal(x, encoder.state_dict()[key]) for key, x in made.encoder.state_dict().items())


def test_what_belongs_to_student_and_predictor_is_counted(eokit, encoder, tmp_path):
    torch.save(full(published(encoder)), tmp_path / "AnySat_full.pth")
    told = json.loads(eokit("models", "convert", "anysat", "AnySat_full.pth", "b", "--json")[1])
    count = len(encoder.state_dict())
    assert told["left_out"] == {"student": count, "predictor": 2}
    assert told["words"].endswith(f"{count + 2} of the file belong to student and predictor and are left out")


def test_safetensors_are_read_too(eokit, encoder, tmp_path):
    save_file(published(encoder), tmp_path / "AnySat.safetensors")
    assert eokit("models", "convert", "anysat", "AnySat.safetensors", "b")[0] == 0


def test_a_partial_file_is_exit_4_with_the_missing_key(eokit, encoder, tmp_path):
    state = published(encoder)
    del state["blocks.0.attn.qkv.bias"]
    torch.save(state, tmp_path / "part.pth")
    code, _, err = eokit("models", "convert", "anysat", "part.pth", "b")
    assert code == 4
    assert "missing blocks.0.attn.qkv.bias" in err
    assert not (tmp_path / "b").exists()


def no_tensors(file):
    torch.save({"state_dict": {"epoch": 3}}, file)


def more_than_tensors(file):
    torch.save({"state_dict": {}, "where": Path("x")}, file)


def list_of_tensors(file):
    torch.save([torch.zeros(2)], file)


def width_of_no_model(file):
    torch.save({"cls_token": torch.zeros(7)}, file)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (more_than_tensors, "holds pathlib.* beside tensors, which cannot be read safely"),
        (lambda file: file.write_text("<html>not found</html>"), "is no torch checkpoint"),
        (lambda file: file.write_bytes(b""), "is no torch checkpoint"),
        (lambda file: file.write_text("Repository not found"), "is no torch checkpoint"),
        (lambda file: file.write_text("hello"), "is no torch checkpoint"),
        (list_of_tensors, "holds a list, expected tensors by name"),
        (no_tensors, "holds no AnySat encoder"),
        (width_of_no_model, "holds 0 blocks of width 7"),
    ],
)
def test_a_file_that_is_none_is_exit_4_in_one_line(eokit, tmp_path, write, told):
    write(tmp_path / "odd.pth")
    code, _, err = eokit("models", "convert", "anysat", "odd.pth", "b")
    assert code == 4
    assert err.count("\n") == 1
    assert re.search(told, err)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_a_cut_file_is_exit_4_with_the_first_sentence_of_torch(eokit, weights, tmp_path, share):
    whole = weights.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(share * len(whole))])
    code, _, err = eokit("models", "convert", "anysat", "cut.pth", "b")
    assert code == 4
    assert re.search(r"cut\.pth: is no torch checkpoint \([^().]+\); download it again$", err.strip())


def test_a_missing_file_is_exit_2(eokit):
    code, _, err = eokit("models", "convert", "anysat", "none.pth", "b")
    assert code == 2
    assert "none.pth: does not exist" in err


def test_with_a_store_the_bundle_has_its_statistics_and_says_that_they_are_made_up(eokit, weights, tmp_path):
    store = many_sensors(tmp_path / "toy.zarr")
    code, out, _ = eokit("models", "convert", "anysat", weights, "b", "--data", store.path)
    made = load_bundle(tmp_path / "b")
    assert code == 0
    assert list(made.preprocessing.inputs) == ["s2", "s1-asc", "spot"]
    assert made.provenance["synthetic"] is True
    assert "SYNTHETIC" in out


def test_what_is_there_is_replaced_only_where_it_is_a_bundle_and_asked_for(eokit, weights, tmp_path):
    call = ("models", "convert", "anysat", weights, "b")
    assert eokit(*call)[0] == 0
    assert eokit(*call)[0] == 2
    assert eokit(*call, "--overwrite")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    code, _, err = eokit("models", "convert", "anysat", weights, "mine", "--overwrite")
    assert code == 2
    assert "is no bundle, so it is not replaced" in err


def test_maps_of_geotiffs_are_refused_with_the_way_out(eokit, weights, tmp_path):
    assert eokit("models", "convert", "anysat", weights, "b")[0] == 0
    made = load_bundle(tmp_path / "b")
    model = SegmentationModel(made.encoder, Task(("a", "b"), head="linear"))
    save_bundle(tmp_path / "head", model.to_bundle(made.preprocessing, {}))
    code, _, err = eokit("predict", "head", write_scene(tmp_path / "season", 32, 32), "map.tif")
    assert code == 4
    assert "eokit models convert --data STORE" in err
