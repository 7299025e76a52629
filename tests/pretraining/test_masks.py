"""Laws of the masks: parcels hidden whole, enough hidden, enough left visible, whatever the place looks like."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.data.sample import Sample, Series, Where
from eokit.errors import ArgumentError
from eokit.pretraining.masks import MaskTokens

P = 4


def place(height: int, width: int, parcel: torch.Tensor | None) -> Sample:
    series = Series(
        torch.zeros(2, 1, height, width),
        torch.zeros(2, dtype=torch.int32),
        torch.ones(2, height, width, dtype=torch.bool),
        "sentinel-2",
    )
    return Sample({"s2": series}, Where("a"), {} if parcel is None else {"parcel": parcel})


def fields(rows: int, columns: int, edge: int) -> torch.Tensor:
    """rows x columns square parcels of `edge` pixels, numbered from 1."""
    numbers = torch.arange(1, rows * columns + 1).view(rows, columns)
    return numbers.repeat_interleave(edge, 0).repeat_interleave(edge, 1)


def hide(sample: Sample, seed: int = 0, **options) -> torch.Tensor:
    return MaskTokens(P, **options)(sample, np.random.default_rng(seed)).targets["masked"]


parcel_maps = st.builds(
    lambda h, w, edge, gaps, seed: torch.from_numpy(
        np.where(
            np.random.default_rng(seed).random((h * P, w * P)) < gaps,
            0,
            (np.arange(h * P)[:, None] // edge) * 100 + np.arange(w * P) // edge + 1,
        )
    ),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    st.integers(0, 99),
)


@settings(max_examples=150, deadline=None)
@given(parcel_maps, st.integers(0, 999))
def test_something_is_hidden_and_enough_stays_visible_on_any_place(parcel, seed):
    masked = hide(place(*parcel.shape, parcel), seed)
    tokens = masked.numel()
    assert masked.shape == (parcel.shape[0] // P, parcel.shape[1] // P)
    assert masked.any()
    assert tokens - masked.sum() >= min(10, tokens // 2)


@settings(max_examples=60, deadline=None)
@given(parcel_maps, st.integers(0, 999))
def test_hidden_parcels_are_never_more_than_the_ratio_allows(parcel, seed):
    sample, transform = place(*parcel.shape, parcel), MaskTokens(P)
    if transform.describe(sample) == "blocks":
        return
    cropland = (parcel != 0).float().unfold(0, P, P).unfold(1, P, P).mean((-2, -1)) >= 0.5
    masked = hide(sample, seed)
    assert masked.sum() <= max(1, int(0.6 * cropland.sum()))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 999))
def test_blocks_hide_something_on_any_grid_without_parcels(h, w, seed):
    masked = hide(place(h * P, w * P, None), seed)
    assert masked.any()
    assert masked.numel() - masked.sum() >= min(10, masked.numel() // 2)


@pytest.mark.parametrize("seed", range(5))
def test_parcels_on_the_token_grid_are_hidden_whole_or_not_at_all(seed):
    parcel = fields(8, 8, edge=2 * P)
    masked = hide(place(64, 64, parcel), seed)
    pixels = masked.repeat_interleave(P, 0).repeat_interleave(P, 1)
    for number in range(1, 65):
        assert len(pixels[parcel == number].unique()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_hidden_cropland_lies_within_the_ratio(seed):
    masked = hide(place(64, 64, fields(8, 8, edge=2 * P)), seed)
    assert 0.4 <= masked.float().mean() <= 0.6


def test_land_without_parcels_stays_visible():
    parcel = fields(8, 8, edge=2 * P)
    parcel[:, 32:] = 0
    masked = hide(place(64, 64, parcel))
    assert masked[:, :8].any()
    assert not masked[:, 8:].any()


def test_a_token_is_hidden_when_half_of_its_pixels_lie_in_chosen_parcels():
    parcel = torch.zeros(16, 16, dtype=torch.int64)
    parcel[:4, :2] = 7  # half of the first token
    parcel[8:12, 9:10] = 7  # a quarter of another
    masked = hide(place(16, 16, parcel))
    assert masked.nonzero().tolist() == [[0, 0]]


def test_every_parcel_is_hidden_sooner_or_later():
    sample = place(64, 64, fields(8, 8, edge=2 * P))
    often = sum(hide(sample, seed).float() for seed in range(60)) / 60
    assert often.min() > 0.2
    assert often.max() < 0.8


def test_the_same_generator_gives_the_same_mask_and_another_one_another():
    sample = place(64, 64, fields(8, 8, edge=2 * P))
    assert torch.equal(hide(sample, 1), hide(sample, 1))
    assert not torch.equal(hide(sample, 1), hide(sample, 2))


@pytest.mark.parametrize(
    ("parcel", "kind"),
    [
        (fields(8, 8, edge=2 * P), "parcels"),
        (None, "blocks"),
        (torch.zeros(64, 64, dtype=torch.int64), "blocks"),
        (torch.ones(64, 64, dtype=torch.int64), "blocks"),  # one parcel everywhere: hiding it would leave nothing
        (fields(64, 64, edge=1), "blocks"),  # parcels of one pixel
    ],
)
def test_what_masks_are_made_of_can_be_told(parcel, kind):
    assert MaskTokens(P).describe(place(64, 64, parcel)) == kind


def test_blocks_cover_a_fair_share_of_the_grid():
    shares = [hide(place(64, 64, None), seed).float().mean().item() for seed in range(40)]
    assert min(shares) >= 0.14
    assert max(shares) <= 0.85


def test_other_targets_are_kept():
    sample = place(16, 16, torch.ones(16, 16, dtype=torch.int64))
    assert set(MaskTokens(P)(sample, np.random.default_rng(0)).targets) == {"parcel", "masked"}


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(ArgumentError, match="18 x 16 pixels does not divide into patches of 4"):
        hide(place(18, 16, None))


def test_parcels_of_another_size_are_refused():
    with pytest.raises(ArgumentError, match=r"parcel has shape \(8, 8\), the images \(16, 16\)"):
        hide(place(16, 16, torch.ones(8, 8)))


@pytest.mark.parametrize("ratio", [(0.6, 0.4), (0.0, 0.5), (0.5, 1.0)])
def test_ratios_that_cannot_work_are_refused(ratio):
    with pytest.raises(ArgumentError, match="must be two increasing shares between 0 and 1"):
        MaskTokens(P, ratio=ratio)
