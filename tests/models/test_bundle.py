"""A bundle on disk: what was saved comes back, and what is damaged is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eokit.data.preprocessing import Input, Preprocessing
from eokit.errors import WeightsError
from eokit.models.bundle import CONFIG_FILE, Bundle, load_bundle, save_bundle
from eokit.models.registry import build_encoder

SMALL = {"modalities": {"s2": 2}, "width": 16, "depth": 1, "heads": 2, "patch_size": 4, "drop_path": 0.0}


@pytest.fixture
def bundle(tmp_path) -> Path:
    preprocessing = Preprocessing({"s2": Input("sentinel-2", ("B04", "B08"), (1.0, 2.0), (3.0, 4.0))})
    return save_bundle(tmp_path / "b", Bundle(build_encoder("cropsts", None, SMALL), preprocessing))


def rewrite(bundle: Path, change) -> None:
    description = json.loads((bundle / CONFIG_FILE).read_text())
    change(description)
    (bundle / CONFIG_FILE).write_text(json.dumps(description))


def test_what_was_saved_comes_back(bundle):
    one, two = load_bundle(bundle), load_bundle(bundle)
    assert one.preprocessing.inputs["s2"].bands == ("B04", "B08")
    assert one.encoder.config == two.encoder.config
    torch.testing.assert_close(one.encoder.state_dict(), two.encoder.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["family", "model", "preprocessing", "task", "provenance"])
def test_a_key_that_is_missing_is_named(bundle, key):
    rewrite(bundle, lambda plain: plain.pop(key))
    with pytest.raises(WeightsError, match=rf"b/bundle\.json: '{key}' is missing"):
        load_bundle(bundle)


@pytest.mark.parametrize("key", ["family", "model", "preprocessing", "task", "provenance"])
def test_a_value_of_another_type_is_named(bundle, key):
    rewrite(bundle, lambda plain: plain.update({key: [1]}))
    with pytest.raises(WeightsError, match=rf"b/bundle\.json: {key} = \[1\], expected"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda plain: plain["model"].update(deep=3), "model: .*unknown key deep"),
        (lambda plain: plain["model"].update(width=15), "model: .*width 15"),
        (lambda plain: plain["model"].update(modalities=["s2"]), "model: "),
        (lambda plain: plain["preprocessing"]["s2"].update(gain=3), "preprocessing: .*'gain'"),
        (lambda plain: plain["preprocessing"]["s2"].pop("mean"), "preprocessing: .*'mean'"),
        (lambda plain: plain["preprocessing"].update(s2=3), "preprocessing: "),
    ],
)
def test_what_is_wrong_inside_a_key_is_named_with_it(bundle, change, told):
    rewrite(bundle, change)
    with pytest.raises(WeightsError, match=rf"b/bundle\.json: {told}"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["[1, 2]", "3", "{", ""])
def test_a_file_that_holds_no_keys_is_refused(bundle, text):
    (bundle / CONFIG_FILE).write_text(text)
    with pytest.raises(WeightsError, match=r"b/bundle\.json: "):
        load_bundle(bundle)
