from __future__ import annotations

import pytest

from eokit.models.registry import FAMILIES


@pytest.fixture(autouse=True)
def _toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of the toy encoder can be saved and loaded."""
    monkeypatch.setitem(FAMILIES, "toy", "tests.tasks.toy")
