"""The store that is meant when none is named."""

from __future__ import annotations

import pytest

from eokit.data.find import only_store
from eokit.errors import UsageError


def test_the_only_store_is_found(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.zarr.partial").mkdir()
    assert only_store(tmp_path) == tmp_path / "a.zarr"


def test_several_stores_are_listed(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(UsageError, match=r"2 stores, name one of .*a\.zarr, .*b\.zarr"):
        only_store(tmp_path)


def test_no_store_says_how_to_make_one(tmp_path):
    with pytest.raises(UsageError, match="eokit prepare synthetic"):
        only_store(tmp_path / "missing")
