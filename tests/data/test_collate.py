"""A batch is its samples side by side: padding is never valid and changes no sample."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eokit.data.collate import collate
from eokit.data.sample import Sample, Series, Where
from eokit.errors import ArgumentError


def make_sample(dates: int, number: int = 0, size: int = 3, name: str = "s2", target: str = "semantic") -> Sample:
    """Ones and true everywhere, so that padding is told apart."""
    values = torch.full((dates, 2, size, size), number + 1.0)
    days = torch.arange(1, dates + 1, dtype=torch.int32)
    series = {name: Series(values, days, torch.ones(dates, size, size, dtype=torch.bool), "sentinel-2")}
    return Sample(series, Where(f"p{number}"), {target: torch.full((size, size), number)})


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_every_sample_is_found_again_and_the_rest_is_padding(counts):
    batch = collate([make_sample(count, number) for number, count in enumerate(counts)])
    one = batch.series["s2"]
    assert one.values.shape == (len(counts), max(1, *counts), 2, 3, 3)
    for row, count in enumerate(counts):
        assert (one.values[row, :count] == row + 1).all()
        assert one.days[row, :count].tolist() == list(range(1, count + 1))
        assert one.valid[row, :count].all()
        assert not one.values[row, count:].any()
        assert not one.days[row, count:].any()
        assert not one.valid[row, count:].any()
        assert (batch.targets["semantic"][row] == row).all()
    assert [where.id for where in batch.where] == [f"p{row}" for row in range(len(counts))]


def test_a_sample_is_the_same_whatever_it_is_batched_with():
    alone = collate([make_sample(2)]).series["s2"]
    beside = collate([make_sample(2), make_sample(7, 1)]).series["s2"]
    assert torch.equal(beside.values[:1, :2], alone.values)
    assert torch.equal(beside.valid[:1, :2], alone.valid)


def test_a_modality_without_any_date_gets_one_padding_date():
    one = collate([make_sample(0), make_sample(0, 1)]).series["s2"]
    assert one.values.shape == (2, 1, 2, 3, 3)
    assert not one.valid.any()


def test_dtypes_are_those_of_the_vocabulary():
    one = collate([make_sample(2)]).series["s2"]
    assert (one.values.dtype, one.days.dtype, one.valid.dtype) == (torch.float32, torch.int32, torch.bool)


def test_samples_of_other_modalities_are_refused():
    with pytest.raises(ArgumentError, match=r"samples differ in series: \['s2'\] and \['s1'\]"):
        collate([make_sample(1), make_sample(1, name="s1")])


def test_samples_of_other_targets_are_refused():
    with pytest.raises(ArgumentError, match="samples differ in targets"):
        collate([make_sample(1), make_sample(1, target="parcel")])


def test_samples_of_other_sizes_are_refused():
    with pytest.raises(ArgumentError, match=r"do not stack; crop them alike"):
        collate([make_sample(1), make_sample(1, size=4)])


def test_no_samples_are_refused():
    with pytest.raises(ArgumentError, match="at least one"):
        collate([])
