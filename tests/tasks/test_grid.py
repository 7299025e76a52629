"""How label pixels lie on patches and sub-patches, from shapes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.spec import LabelSpec, ModalitySpec
from eokit.errors import UsageError
from eokit.models.anysat.sensors import SENSORS
from eokit.models.registry import build_encoder
from eokit.tasks.grid import choose_dense, patch_pixels, with_dense
from tests.tasks.toy import toy


def anysat(metres: int, *names: str):
    modalities = {name: len(SENSORS[name].bands) for name in names}
    return build_encoder("anysat", None, {"modalities": modalities, "width": 64, "depth": 1, "patch_metres": metres})


def store(metres: float, *names: str) -> SimpleNamespace:
    """A store of tiles of so many metres; MODIS has one pixel."""
    specs = {}
    for name in names:
        sensor, side = SENSORS[name], max(1, round(metres / SENSORS[name].gsd))
        specs[name] = ModalitySpec(name, name, sensor.bands, (len(sensor.bands), side, side))
    return SimpleNamespace(path=Path("toy.zarr"), modalities=specs)


def inputs(*names: str) -> Preprocessing:
    bands = {name: SENSORS[name].bands for name in names}
    return Preprocessing({name: Input(name, one, (0.0,) * len(one), (1.0,) * len(one)) for name, one in bands.items()})


def labels(side: int) -> LabelSpec:
    return LabelSpec("semantic", "uint8", (side, side), ("a", "b"))


@pytest.mark.parametrize(
    ("metres", "names", "patch", "side", "label_patch", "dense"),
    [
        (1280, ("s2", "s1"), 40, 128, 4, "s2"),  # PASTIS
        (1280, ("spot", "s2"), 160, 128, 16, "spot"),
        (100, ("aerial-flair", "s2"), 10, 500, 50, "aerial-flair"),  # FLAIR: labels of 0.2 m
        (100, ("s2", "aerial-flair"), 20, 50, 10, "aerial-flair"),
        (100, ("s2", "aerial-flair"), 10, 10, 1, "s2"),  # sub-patches of 2 m are finer than labels of 10 m
        (120, ("l7", "s2", "modis"), 30, 12, 3, "s2"),
    ],
)
def test_label_pixels_of_patches_and_the_modality_of_dense_features(metres, names, patch, side, label_patch, dense):
    made = anysat(patch, *names), store(metres, *names), inputs(*names), labels(side)
    assert patch_pixels(*made) == label_patch
    assert choose_dense(*made) == dense


@given(st.sampled_from((10, 20, 30, 60)), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 5, 10)))
def test_patches_times_their_labels_are_all_labels(patch, grid, fineness):
    side = patch * grid // 10
    encoder = SimpleNamespace(patch_pixels=lambda name, bands: patch // 10)
    got = patch_pixels(encoder, store(patch * grid, "s2"), inputs("s2"), labels(side * fineness))
    assert got * grid == side * fineness


def test_labels_on_the_grid_of_the_images_have_the_patch_of_the_encoder():
    assert patch_pixels(toy(patch_size=4), store(160, "s2"), inputs("s2"), labels(16)) == 4


def test_labels_coarser_than_patches_are_refused():
    with pytest.raises(UsageError, match="'semantic' has 4 pixels where s2 has 16, so a patch of 2 of those"):
        patch_pixels(toy(patch_size=2), store(160, "s2"), inputs("s2"), labels(4))


def test_an_encoder_without_dense_features_is_refused():
    with pytest.raises(UsageError, match="toy has no dense features of s2; use those of patches"):
        choose_dense(toy(), store(160, "s2"), inputs("s2"), labels(16))


def test_a_modality_that_does_not_divide_the_labels_is_refused_with_those_that_do():
    made = anysat(10, "s2", "aerial"), store(60, "s2", "aerial"), inputs("s2", "aerial"), labels(6)
    with pytest.raises(UsageError, match=r"dense = 'aerial': not a modality .* 6 x 6 pixels; s2 would do"):
        choose_dense(*made, wanted="aerial")


def test_telling_of_sub_patches_changes_no_weight_and_can_be_undone():
    encoder = anysat(10, "s2", "aerial")
    dense = with_dense(encoder, "aerial")
    assert dense.config.dense == "aerial"
    assert all(torch.equal(one, dense.state_dict()[key]) for key, one in encoder.state_dict().items())
    assert with_dense(dense, None).config == encoder.config
