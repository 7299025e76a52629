"""AnySat against recorded outputs of the published model, where they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eokit.models.anysat.official import official_key, run_case
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
def test_the_keys_are_the_published_ones(recorded, size):
    shapes = json.loads((recorded / f"state_dict_{size}.json").read_text())
    encoder = build_encoder("anysat", size)
    ours = {official_key(key, encoder.config.depth): x.numel() for key, x in encoder.state_dict().items()}
    assert ours == {key: math.prod(shape) for key, shape in shapes.items()}
