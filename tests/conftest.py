"""What tests of all parts need: the real samples that are not part of the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared"
"""Where the samples lie unless EOKIT_SHARED says otherwise: beside the checkout, as where changes are checked. They are
real patches of published data sets, too large for the repository; a clone without them skips the tests marked `shared`.
"""


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("pastis-real")`: the folder of that sample; the test is skipped where it is missing."""

    def sample(name: str) -> Path:
        folder = Path(os.environ.get("EOKIT_SHARED") or BESIDE) / "data" / name
        if not folder.is_dir():
            pytest.skip(f"no sample {folder}; EOKIT_SHARED=FOLDER says where data/{name} is")
        return folder

    return sample
