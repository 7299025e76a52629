"""What every registered encoder must keep; a family's test file derives `EncoderContract` and names itself.

    class TestCropSTSContract(EncoderContract):
        family = "cropsts"
        small = {...}          # a configuration that runs in milliseconds

Two runs that differ only in how samples are grouped use other matrix shapes, hence other orders of summation:
ROUNDING is what float32 leaves of features of unit variance after a few layers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from eokit.data.sample import Batch, Series
from eokit.errors import ArgumentError, UsageError
from eokit.models.base import Encoder, Features
from eokit.models.registry import build_encoder

from .batches import change, pad_dates, random_batch, shuffle_dates, take

ROUNDING = 2e-5


def assert_same(ours: Features, theirs: Features, tolerance: float = ROUNDING) -> None:
    """Equal features; `patch` only where it was seen."""
    torch.testing.assert_close(ours.seen, theirs.seen)
    torch.testing.assert_close(ours.tile, theirs.tile, atol=tolerance, rtol=0)
    seen = ours.seen[:, None]
    torch.testing.assert_close(ours.patch * seen, theirs.patch * seen, atol=tolerance, rtol=0)
    if ours.dense is not None:
        torch.testing.assert_close(ours.dense, theirs.dense, atol=tolerance, rtol=0)


class EncoderContract:
    """Inherit, set `family` and `small`; each test is one promise of `eokit.models.base`."""

    family: ClassVar[str]
    small: ClassVar[dict[str, Any]]

    @pytest.fixture
    def encoder(self) -> Encoder:
        torch.manual_seed(0)
        return build_encoder(self.family, None, self.small).eval()

    @pytest.fixture
    def batch(self) -> Batch:
        return random_batch(self.small["modalities"])

    @pytest.fixture
    def features(self, encoder, batch) -> Features:
        with torch.no_grad():
            return encoder(batch)

    def test_features_have_the_documented_shapes(self, encoder, batch, features):
        size, side = len(batch), 16 // encoder.patch_size
        assert features.tile.shape == (size, encoder.width)
        assert features.patch.shape == (size, encoder.width, side, side)
        assert features.seen.shape == (size, side, side)
        assert features.seen.dtype == torch.bool

    def test_patch_maps_are_channels_last_in_memory(self, features):
        assert features.patch.is_contiguous(memory_format=torch.channels_last)

    def test_a_sample_alone_and_in_a_batch_gives_the_same_features(self, encoder, batch, features):
        for number in range(len(batch)):
            alone = encoder(take(batch, slice(number, number + 1)))
            row = slice(number, number + 1)
            assert_same(alone, Features(features.tile[row], features.patch[row], features.seen[row]))

    def test_padding_dates_do_not_change_features(self, encoder, batch, features):
        assert_same(encoder(change(batch, lambda one: pad_dates(one, 3))), features)

    def test_the_order_of_dates_does_not_change_features(self, encoder, batch, features):
        assert_same(encoder(change(batch, shuffle_dates)), features)

    def test_the_order_of_modalities_does_not_change_features(self, encoder, batch, features):
        turned = replace(batch, series=dict(reversed(batch.series.items())))
        assert_same(encoder(turned), features)

    def test_values_of_invalid_pixels_change_nothing(self, encoder, batch, features):
        def poison(one: Series) -> Series:
            values = torch.where(one.valid[:, :, None], one.values, torch.nan)
            return replace(one, values=values)

        assert_same(encoder(change(batch, poison)), features, tolerance=0)

    def test_a_sample_that_nobody_saw_has_finite_features_and_is_not_seen(self, encoder, batch):
        def cover(one: Series) -> Series:
            return replace(one, values=torch.zeros_like(one.values), valid=torch.zeros_like(one.valid))

        blind = encoder(change(batch, cover))
        assert torch.isfinite(blind.tile).all()
        assert torch.isfinite(blind.patch).all()
        assert not blind.seen.any()

    def test_an_unseen_sample_has_finite_gradients(self, encoder, batch):
        blind = change(batch, lambda one: replace(one, valid=torch.zeros_like(one.valid)))
        encoder(blind).patch.square().sum().backward()
        assert all(torch.isfinite(one.grad).all() for one in encoder.parameters() if one.grad is not None)

    def test_every_modality_works_alone(self, encoder, batch):
        for name, series in batch.series.items():
            features = encoder(replace(batch, series={name: series}))
            assert torch.isfinite(features.tile).all()
            assert features.seen.any()

    def test_gradient_reaches_every_parameter(self, encoder, batch):
        features = encoder.train()(batch)
        weights = torch.randn(features.patch.shape, generator=torch.Generator().manual_seed(1))
        loss = (features.patch * weights).sum() + features.tile.sum()
        if features.dense is not None:
            loss = loss + features.dense.square().sum()
        loss.backward()
        trained = [(name, one) for name, one in encoder.named_parameters() if one.requires_grad]
        assert [name for name, one in trained if one.grad is None or not one.grad.any()] == []

    def test_the_configuration_survives_json(self, encoder, batch, features):
        again = build_encoder(self.family, None, json.loads(json.dumps(encoder.config_dict()))).eval()
        again.load_state_dict(encoder.state_dict())
        assert_same(again(batch), features, tolerance=0)

    def test_modalities_are_those_of_the_configuration(self, encoder):
        assert encoder.modalities == tuple(self.small["modalities"])

    def test_an_unknown_key_of_the_configuration_is_refused_by_name(self):
        with pytest.raises(UsageError, match="unknown key colour"):
            build_encoder(self.family, None, self.small | {"colour": "green"})

    def test_an_unknown_modality_is_refused_by_name(self, encoder, batch):
        strange = replace(batch, series={"lidar": next(iter(batch.series.values()))})
        with pytest.raises(ArgumentError, match="lidar"):
            encoder(strange)

    def test_a_wrong_number_of_bands_is_refused(self, encoder, batch):
        name, series = next(iter(batch.series.items()))
        fewer = replace(series, values=series.values[:, :, 1:])
        with pytest.raises(ArgumentError, match=f"{name} has {fewer.values.shape[2]} bands"):
            encoder(replace(batch, series={name: fewer}))
