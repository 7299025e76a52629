"""`eokit models` as it is typed."""

from __future__ import annotations

import json

import pytest

from eokit.models.registry import FAMILIES, get_info


def test_list_names_every_family(eokit):
    code, out, _ = eokit("models", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_info_has_presets_licences_citation_and_parity(eokit, name):
    info = get_info(name)
    page = eokit("models", "info", name)[1]
    assert all(text in page for text in (info.code_licence, info.weights_licence, info.citation, info.parity))
    assert all(preset in page for preset in info.presets)


def test_info_has_a_line_a_sensor_with_shape_resolution_and_bands(eokit):
    lines = [line.split() for line in eokit("models", "info", "anysat")[1].splitlines()]
    assert ["aerial", "(1,", "4,", "H,", "W)", "0.2", "NIR", "G", "B", "R"] in [line[:10] for line in lines]
    assert ["modis", "(T,", "7,", "1,", "1)", "250", "B1"] in [line[:7] for line in lines]


def test_info_as_json_is_the_same_facts(eokit):
    told = json.loads(eokit("models", "info", "anysat", "--json")[1])
    assert told["citation"] == get_info("anysat").citation
    assert {row["modality"]: row["gsd"] for row in told["sensors"]}["naip"] == 1.25


def test_an_unknown_model_lists_the_known_ones(eokit):
    code, _, err = eokit("models", "info", "resnet")
    assert code == 2
    assert "unknown model 'resnet'; models: cropsts, anysat" in err
