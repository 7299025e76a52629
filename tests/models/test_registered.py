"""No family enters the registry without the contract."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from eokit.errors import UsageError
from eokit.models.registry import FAMILIES, build_encoder, get_info, presets

from .contract import EncoderContract


@pytest.mark.parametrize("family", FAMILIES)
def test_every_registered_family_is_held_to_the_contract(family):
    collected = vars(import_module(f".test_{family}", __package__))
    classes = [one for name, one in collected.items() if name.startswith("Test") and isinstance(one, type)]
    assert any(issubclass(one, EncoderContract) and one.family == family for one in classes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_registered_family_has_a_size_for_a_cpu(family):
    assert "tiny" in presets(family)


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown model 'resnet'; models: cropsts"):
        build_encoder("resnet")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no preset 'huge'; presets: paper, parcel, tiny"):
        build_encoder("cropsts", "huge")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_facts_of_a_family_are_those_of_its_module(family):
    info = get_info(family)
    assert info.name == family
    assert list(info.presets) == list(presets(family))


@pytest.mark.parametrize(("family", "preset"), [(family, one) for family in FAMILIES for one in presets(family)])
def test_every_preset_has_the_parameters_that_its_facts_say(family, preset):
    with torch.device("meta"):
        encoder = build_encoder(family, preset)
    assert sum(one.numel() for one in encoder.parameters()) == get_info(family).presets[preset]
