"""AnySat against recorded outputs of the published model, where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eokit.models.anysat.official import as_published, run_case
from eokit.models.parity import TOLERANCE, compare
from eokit.models.registry import build_encoder

pytestmark = pytest.mark.shared


@pytest.fixture
def recorded(shared) -> Path:
    return shared("anysat", "parity")


def test_every_recorded_case_is_reproduced(recorded):
    outcomes = compare(recorded, run_case, quiet=True)
    assert len(outcomes) == 10
    assert {one.file: one.error for one in outcomes if not one.error <= TOLERANCE} == {}


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_keys_and_shapes_are_the_published_ones(recorded, size):
    shapes = json.loads((recorded / f"state_dict_{size}.json").read_text())
    assert {key: list(x.shape) for key, x in as_published(build_encoder("anysat", size)).items()} == shapes
