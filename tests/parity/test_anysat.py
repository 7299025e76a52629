"""AnySat against recorded outputs of the published model: `../shared/parity/anysat`, where it is there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eokit.models.anysat.official import official_key, run_case
from eokit.models.parity import TOLERANCE, compare
from eokit.models.registry import build_encoder

RECORDED = Path(__file__).resolve().parents[3] / "shared/parity/anysat"

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded cases are not here")


def test_every_recorded_case_is_reproduced():
    outcomes = compare(RECORDED, run_case)
    assert len(outcomes) == 10
    assert {one.file: one.error for one in outcomes if not one.error <= TOLERANCE} == {}


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_keys_are_the_published_ones(size):
    shapes = json.loads((RECORDED / f"state_dict_{size}.json").read_text())
    encoder = build_encoder("anysat", size)
    ours = {official_key(key, encoder.config.depth): x.numel() for key, x in encoder.state_dict().items()}
    assert ours == {key: math.prod(shape) for key, shape in shapes.items()}
