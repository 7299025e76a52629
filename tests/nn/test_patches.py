"""Patches: which were seen, and their projection."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from eokit.errors import ArgumentError
from eokit.nn.patches import PatchEmbedding, patch_grid, seen_patches


def test_a_patch_is_seen_when_at_least_half_of_its_pixels_are_valid():
    valid = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    valid[..., :2, :4] = True  # half of the left patch
    valid[..., :2, 4:] = True
    valid[..., 0, 4] = False  # one less than half of the right one
    assert seen_patches(valid, 4).tolist() == [[[True, False]]]


def test_the_projection_is_a_convolution_whose_stride_is_the_patch():
    embedding = PatchEmbedding(bands=3, patch_size=4, width=16)
    values, valid = torch.randn(2, 5, 3, 8, 12), torch.ones(2, 5, 8, 12, dtype=torch.bool)
    weight = embedding.projection.weight.reshape(16, 3, 4, 4)
    expected = F.conv2d(values.flatten(0, 1), weight, embedding.projection.bias, stride=4)
    torch.testing.assert_close(embedding(values, valid).flatten(0, 1), expected.flatten(2).transpose(1, 2))


def test_values_may_be_strided():
    embedding = PatchEmbedding(bands=2, patch_size=2, width=8)
    wide, valid = torch.randn(1, 3, 2, 4, 12), torch.ones(1, 3, 4, 6, dtype=torch.bool)
    torch.testing.assert_close(embedding(wide[..., ::2], valid), embedding(wide[..., ::2].contiguous(), valid))


def test_invalid_pixels_count_as_zero():
    embedding = PatchEmbedding(bands=2, patch_size=2, width=8)
    values, valid = torch.full((1, 1, 2, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    torch.testing.assert_close(embedding(values, valid)[0, 0, 0], embedding.projection.bias)


def test_new_tokens_of_normalised_bands_have_unit_variance():
    torch.manual_seed(0)
    embedding = PatchEmbedding(bands=10, patch_size=4, width=128)
    tokens = embedding(torch.randn(4, 4, 10, 16, 16), torch.ones(4, 4, 16, 16, dtype=torch.bool))
    assert 0.7 < tokens.var().item() < 1.3


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 9), (0, 8)])
def test_images_that_do_not_divide_are_refused(height, width):
    with pytest.raises(ArgumentError, match=f"{height} x {width} pixels does not divide into patches of 4"):
        patch_grid(height, width, 4)
