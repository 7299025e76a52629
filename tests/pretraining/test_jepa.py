"""JEPA: hidden pixels stay hidden, only hidden and seen tokens count, the teacher follows and never learns."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from eokit.data.sample import Batch
from eokit.errors import ArgumentError
from eokit.models.registry import build_encoder
from eokit.pretraining.jepa import JEPA, JEPAConfig

from ..models.batches import pad_dates, random_batch

SMALL = {"modalities": {"s2": 10, "s1-asc": 3}, "width": 32, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.0}
FIGURES = {"loss", "feature_std", "effective_rank", "target_std", "masked_share"}


@pytest.fixture
def jepa() -> JEPA:
    torch.manual_seed(0)
    return JEPA(build_encoder("cropsts", None, SMALL))


@pytest.fixture
def masked() -> torch.Tensor:
    return torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.5


@pytest.fixture
def batch(masked) -> Batch:
    return replace(random_batch(SMALL["modalities"]), targets={"masked": masked})


def with_other_pixels(batch: Batch, where: torch.Tensor) -> Batch:
    """The batch with other values in the patches (B, h, w) `where`."""
    pixels = where.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None, None]
    series = {
        name: replace(one, values=torch.where(pixels, one.values + 3.0, one.values))
        for name, one in batch.series.items()
    }
    return replace(batch, series=series)


def predictions(jepa: JEPA, batch: Batch) -> torch.Tensor:
    """What student and predictor say of every token."""
    student = jepa.encoder.tokens(batch, batch.targets["masked"], jepa.mask_token)
    return jepa.predictor(student, torch.ones_like(student.key_mask))


def test_the_loss_and_the_figures_to_watch_are_scalars_and_only_the_loss_has_a_gradient(jepa, batch):
    out = jepa(batch)
    assert set(out) == FIGURES | {"weight"}
    assert all(one.shape == () and torch.isfinite(one) for one in out.values())
    assert [name for name, one in out.items() if one.requires_grad] == ["loss"]


def test_pixels_of_hidden_patches_cannot_reach_the_student_or_the_prediction(jepa, batch, masked):
    other = with_other_pixels(batch, masked)
    assert torch.equal(predictions(jepa, batch), predictions(jepa, other))
    assert not torch.equal(predictions(jepa, batch), predictions(jepa, with_other_pixels(batch, ~masked)))


def test_the_loss_counts_hidden_and_seen_tokens_only(jepa, batch, masked):
    student = jepa.encoder.tokens(batch, masked, jepa.mask_token)
    rows = predictions(jepa, batch).view(*student.x.shape)
    teacher = jepa.teacher.tokens(batch).x
    target = (teacher - teacher.mean(-1, keepdim=True)) / (teacher.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    each = F.smooth_l1_loss(rows, target, reduction="none").mean(-1)
    counted = [
        each[b, t, n]
        for b in range(each.shape[0])
        for t in range(each.shape[1])
        for n in range(each.shape[2])
        if masked[b].flatten()[n] and student.key_mask[b, t, n]
    ]
    torch.testing.assert_close(jepa(batch)["loss"], torch.stack(counted).mean())


def test_the_same_patches_are_hidden_on_all_dates_of_all_modalities(jepa, batch, masked):
    token = torch.full((32,), 7.0)
    plain, hidden = jepa.encoder.embed(batch).x, jepa.encoder.embed(batch, masked, token).x
    changed = (plain != hidden).any(-1)
    assert torch.equal(changed, masked.flatten(1)[:, None].expand_as(changed))


def test_padding_dates_do_not_change_the_loss(jepa, batch):
    padded = replace(batch, series={name: pad_dates(one, 2) for name, one in batch.series.items()})
    torch.testing.assert_close(jepa(padded)["loss"], jepa(batch)["loss"], atol=1e-6, rtol=0)


def test_the_gradient_reaches_every_parameter_but_the_teacher(jepa, batch):
    jepa(batch)["loss"].backward()
    without = {name for name, one in jepa.named_parameters() if one.grad is None or not one.grad.any()}
    assert without == {f"teacher.{name}" for name, _ in jepa.teacher.named_parameters()}


def test_the_teacher_moves_by_its_average_and_the_student_does_not(jepa, batch):
    optimiser = torch.optim.SGD([one for one in jepa.parameters() if one.requires_grad], lr=0.1)
    before = copy.deepcopy(jepa.teacher.state_dict())
    jepa(batch)["loss"].backward()
    optimiser.step()
    student = copy.deepcopy(jepa.encoder.state_dict())
    assert all(torch.equal(before[name], one) for name, one in jepa.teacher.state_dict().items())
    jepa.after_step(0.5)
    for name, one in jepa.teacher.state_dict().items():
        torch.testing.assert_close(one, 0.998 * before[name] + 0.002 * student[name])
    assert all(torch.equal(student[name], one) for name, one in jepa.encoder.state_dict().items())


def test_the_teacher_stays_in_evaluation_mode(jepa):
    jepa.train()
    assert jepa.encoder.training
    assert not any(one.training for one in jepa.teacher.modules())


def test_thirty_steps_on_one_batch_reduce_the_loss(jepa, batch):
    optimiser = torch.optim.AdamW([one for one in jepa.parameters() if one.requires_grad], lr=2e-3)
    losses = []
    for step in range(30):
        loss = jepa(batch)["loss"]
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        jepa.after_step(step / 30)
    assert losses[-1] < 0.9 * losses[0]


def test_a_batch_without_anything_hidden_or_seen_has_loss_zero(jepa, batch, masked):
    for nothing in (
        replace(batch, targets={"masked": torch.zeros_like(masked)}),
        replace(batch, series={n: replace(s, valid=torch.zeros_like(s.valid)) for n, s in batch.series.items()}),
    ):
        out = jepa(nothing)
        out["loss"].backward()
        assert out["loss"].item() == 0
        assert all(torch.isfinite(one) for one in out.values())


def test_the_masked_share_is_that_of_the_seen_tokens(jepa, batch, masked):
    key_mask = jepa.encoder.embed(batch).key_mask
    expected = (key_mask & masked.flatten(1)[:, None]).sum() / key_mask.sum()
    torch.testing.assert_close(jepa(batch)["masked_share"], expected)


def test_a_batch_without_masks_is_refused_with_the_way_out(jepa, batch):
    with pytest.raises(ArgumentError, match="JEPA needs 'masked': add MaskTokens to the transforms"):
        jepa(replace(batch, targets={}))


def test_the_predictor_is_half_the_encoder_unless_told():
    encoder = build_encoder("cropsts", None, SMALL)
    assert JEPA(encoder).predictor.narrow.out_features == 16
    told = JEPA(encoder, JEPAConfig(predictor_width=24, predictor_depth=3)).predictor
    assert told.narrow.out_features == 24
    assert len(told.trunk.blocks) == 3


def test_the_paper_size_has_the_predictor_of_the_specification():
    predictor = JEPA(build_encoder("cropsts", "paper")).predictor
    assert (predictor.narrow.out_features, len(predictor.trunk.blocks)) == (192, 6)


def test_state_survives_a_round_trip_through_a_state_dict(jepa, batch):
    other = JEPA(build_encoder("cropsts", None, SMALL))
    other.load_state_dict(jepa.state_dict())
    assert torch.equal(other(batch)["loss"], jepa(batch)["loss"])
