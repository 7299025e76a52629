"""Folds as people type them."""

from __future__ import annotations

import pytest

from eokit.data.folds import parse_folds
from eokit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "folds"),
    [("1", (1,)), ("1-3", (1, 2, 3)), ("1,2,5", (1, 2, 5)), ("1-3, 5", (1, 2, 3, 5)), ("2,1-3", (2, 1, 3))],
)
def test_folds_are_read_as_typed(text, folds):
    assert parse_folds(text) == folds


@pytest.mark.parametrize("text", ["", "a", "1-", "-2", "3-1", "1,,2", "1.5"])
def test_what_is_no_fold_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="write them as 1-3 or 1,2,5"):
        parse_folds(text)
