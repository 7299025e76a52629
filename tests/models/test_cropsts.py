"""CropSTS keeps the contract of encoders and what its paper says of its size and its attention."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import eokit.nn.blocks
import eokit.ops
from eokit.errors import ArgumentError, UsageError
from eokit.models.cropsts import PRESETS
from eokit.models.registry import build_encoder

from .batches import random_batch, random_series
from .contract import EncoderContract

SMALL = {"modalities": {"s2": 10, "s1-asc": 3}, "width": 32, "depth": 4, "heads": 2, "patch_size": 4, "drop_path": 0.0}


class TestCropSTSContract(EncoderContract):
    family = "cropsts"
    small = SMALL


class TestTemporalFirstContract(EncoderContract):
    family = "cropsts"
    small = SMALL | {"order": "ts"}


class TestJointAttentionContract(EncoderContract):
    family = "cropsts"
    small = SMALL | {"attention": "joint"}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_encoder("cropsts", None, SMALL).eval()


@pytest.fixture
def batch():
    return random_batch(SMALL["modalities"])


def count(encoder) -> int:
    return sum(one.numel() for one in encoder.parameters())


def test_the_paper_preset_has_the_parameter_count_of_the_paper():
    # 22.42 M: between a table of 365 days and one of 366 with a class token.
    assert 22_417_920 <= count(build_encoder("cropsts", "paper")) <= 22_418_688


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    assert build_encoder("cropsts", preset).modalities == ("s2",)


def test_modality_codes_exist_only_where_there_is_a_choice():
    one = count(build_encoder("cropsts", "tiny"))
    two = count(build_encoder("cropsts", "tiny", {"modalities": {"s2": 10, "s1-asc": 3}}))
    embedding = 3 * 16 * 128 + 128
    assert two - one == embedding + 2 * 128


def test_layers_take_turns_beginning_with_space_or_with_time():
    assert build_encoder("cropsts", None, SMALL).trunk.along == ["space", "time", "space", "time"]
    assert build_encoder("cropsts", None, SMALL | {"order": "ts"}).trunk.along == ["time", "space", "time", "space"]


def test_joint_and_alternating_attention_have_the_same_weights_and_shapes(encoder, batch):
    joint = build_encoder("cropsts", None, SMALL | {"attention": "joint"}).eval()
    joint.load_state_dict(encoder.state_dict())
    assert joint(batch).patch.shape == encoder(batch).patch.shape
    assert not torch.allclose(joint(batch).patch, encoder(batch).patch, atol=1e-3)


def test_tokens_of_all_modalities_follow_each_other_along_time(encoder, batch):
    tokens = encoder.tokens(batch)
    assert tokens.x.shape == (3, 5 + 3, 16, 32)
    assert tokens.days.tolist() == torch.cat([one.days for one in batch.series.values()], 1).tolist()
    assert tokens.key_mask.shape == (3, 8, 16)
    assert tokens.grid == (4, 4)


def test_pooled_patches_are_the_mean_over_the_dates_that_saw_them(encoder, batch):
    tokens, features = encoder.tokens(batch), encoder(batch)
    x = tokens.x[0, tokens.key_mask[0, :, 5], 5]
    torch.testing.assert_close(features.patch[0].flatten(1)[:, 5], x.mean(0))


def test_the_tile_is_the_mean_over_the_seen_patches(encoder, batch):
    valid = batch.series["s2"].valid.clone()
    valid[:, :, :4, :4] = False
    features = encoder(replace(batch, series={"s2": replace(batch.series["s2"], valid=valid)}))
    assert not features.seen[:, 0, 0].any()
    torch.testing.assert_close(features.tile[0], features.patch[0][:, features.seen[0]].mean(1))


def test_hidden_patches_leave_no_trace_of_their_pixels(encoder, batch):
    masked = torch.zeros(3, 4, 4, dtype=torch.bool)
    masked[:, 1, 2] = True
    token = torch.ones(32)
    changed = {name: replace(one, values=one.values.clone()) for name, one in batch.series.items()}
    for one in changed.values():
        one.values[..., 4:8, 8:12] += 100.0
    before, after = (encoder.tokens(one, masked, token).x for one in (batch, replace(batch, series=changed)))
    assert torch.equal(before, after)
    assert not torch.equal(encoder.tokens(batch).x, encoder.tokens(replace(batch, series=changed)).x)


def test_an_image_that_does_not_divide_into_patches_is_refused_with_the_way_out(encoder):
    with pytest.raises(ArgumentError, match="18 x 18 pixels does not divide into patches of 4; pad or crop"):
        encoder(random_batch({"s2": 10}, side=18))


def test_series_on_different_grids_are_refused(encoder, batch):
    finer = random_series("s1-asc", 3, side=32)
    with pytest.raises(ArgumentError, match="s2 4 x 4, s1-asc 8 x 8"):
        encoder(replace(batch, series=batch.series | {"s1-asc": finer}))


def test_a_batch_without_series_is_refused(encoder, batch):
    with pytest.raises(ArgumentError, match="no series"):
        encoder(replace(batch, series={}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": "tts"}, "order = 'tts'; it is one of st, ts"),
        ({"attention": "linear"}, "attention = 'linear'; it is one of decoupled, joint"),
        ({"width": 30}, "width 30 must be a multiple of 4 and of heads = 2"),
        ({"modalities": {}}, "modalities is empty"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        build_encoder("cropsts", None, SMALL | wrong)


@pytest.mark.parametrize("attention", ["decoupled", "joint"])
def test_the_count_of_operations_is_that_of_the_matrix_products_run(attention, monkeypatch):
    seen = functools.partial(eokit.ops.attention, backend="reference")  # matrix products that the counter can see
    monkeypatch.setattr(eokit.nn.blocks, "attention", seen)
    config = SMALL | {"modalities": {"s2": 10}, "attention": attention}
    encoder = build_encoder("cropsts", None, config)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        encoder(random_batch({"s2": 10}, size=2, side=16))
    assert encoder.flops(2, 5, 16, 16) == counter.get_total_flops()


def test_mixed_precision_stays_close_to_full(encoder, batch):
    full = encoder(batch).tile
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(batch).tile
    # bfloat16 keeps 8 bits: a relative 2^-8 a product, a few layers deep, on features of unit variance
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0)
