"""`eokit models parity` as it is typed, on cases that eokit itself recorded: what agrees and what does not is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eokit.models.anysat.official import run_case

ENTRY = {"size": "tiny", "patch_size_m": 20, "output": "tile", "output_modality": None, "modalities": {"spot": 0}}


@pytest.fixture(scope="module")
def recorded():
    """The arrays of a case whose output is eokit's own."""
    image = np.random.default_rng(0).standard_normal((1, 3, 20, 20)).astype(np.float32)
    _, ours, _ = run_case(ENTRY, {"input_spot": image, "output": np.zeros(1)})
    return {"input_spot": image, "output": ours.numpy()}


@pytest.fixture
def folder(tmp_path, recorded):
    """Two cases, the second 0.1 % of its largest value off."""
    np.savez(tmp_path / "same.npz", **recorded)
    np.savez(tmp_path / "off.npz", **recorded | {"output": recorded["output"] + 1e-3 * abs(recorded["output"]).max()})
    (tmp_path / "index.json").write_text(json.dumps([ENTRY | {"file": name} for name in ("same.npz", "off.npz")]))
    return tmp_path


def test_a_case_that_differs_is_exit_1_and_named(eokit, folder):
    code, out, err = eokit("models", "parity", "anysat", folder)
    assert code == 1
    assert "1 of 2 cases differ: off.npz" in err.splitlines()[-1]
    assert "DIFFERS" not in out.splitlines()[0]
    assert "DIFFERS" in out.splitlines()[1]


def test_json_tells_the_error_of_each_case(eokit, folder):
    code, out, _ = eokit("models", "parity", "anysat", folder, "--json")
    same, off = json.loads(out)["cases"]
    assert code == 1
    assert (same["error"], same["passed"], off["passed"]) == (0.0, True, False)
    assert off["error"] == pytest.approx(1e-3, rel=0.01)


def test_agreeing_cases_are_exit_0(eokit, folder):
    (folder / "index.json").write_text(json.dumps([ENTRY | {"file": "same.npz"}]))
    assert eokit("models", "parity", "anysat", folder)[0] == 0


def test_a_recorded_value_that_is_no_number_differs(eokit, folder, recorded):
    np.savez(folder / "same.npz", **recorded | {"output": np.full_like(recorded["output"], np.nan)})
    assert "2 of 2 cases differ" in eokit("models", "parity", "anysat", folder)[2]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "index.json").unlink(), "index.json: cannot be read"),
        (lambda folder: (folder / "index.json").write_text("[]"), "index.json: holds no case"),
        (lambda folder: (folder / "index.json").write_text("[{}]"), "names no file"),
        (lambda folder: (folder / "off.npz").unlink(), "off.npz: cannot be read"),
        (lambda folder: (folder / "off.npz").write_bytes(b"PK"), "off.npz: cannot be read"),
        (lambda folder: np.savez(folder / "same.npz", x=np.zeros(1)), "same.npz: is no case of this model"),
    ],
)
def test_a_damaged_folder_is_exit_3_and_names_the_file(eokit, folder, damage, told):
    damage(folder)
    code, _, err = eokit("models", "parity", "anysat", folder, "-q")
    assert code == 3
    assert told in err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"size": "huge"}, "KeyError 'huge'"),
        ({"patch_size_m": 35}, "patch_metres = 35: spot has sub-patches of 10 m"),
        ({"patch_size_m": 30}, "spot of 20 x 20 pixels does not divide into patches of"),
        ({"modalities": {}}, "anysat: modalities is empty"),
        ({"output": "dense", "output_modality": "s2"}, "dense = 's2' is not in the batch"),
    ],
)
def test_an_entry_that_cannot_run_is_exit_3_and_names_the_file(eokit, folder, changes, told):
    entries = [ENTRY | {"file": "same.npz"}, ENTRY | changes | {"file": "off.npz"}]
    (folder / "index.json").write_text(json.dumps(entries))
    code, _, err = eokit("models", "parity", "anysat", folder, "-q")
    assert code == 3
    assert f"off.npz: is no case of this model ({told}" in err


def test_a_model_without_published_weights_is_refused_with_those_that_have(eokit, folder):
    code, _, err = eokit("models", "parity", "cropsts", folder)
    assert code == 2
    assert "model cropsts has no published weights; models that have: anysat" in err
