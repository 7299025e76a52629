"""AnySat's recipe: what the student is not shown, what the losses compare, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eokit.errors import ArgumentError, UsageError
from eokit.models.anysat.encoders import Kept
from eokit.models.registry import build_encoder
from eokit.ops import mil_nce
from eokit.pretraining.anysat import (
    AnySatJEPA,
    AnySatJEPAConfig,
    Hidden,
    contrast,
    drop_dates,
    first_true,
    keep_tokens,
)
from tests.models.batches import pad_dates, random_batch

SMALL = {"modalities": {"s2": 10, "s1-asc": 3}, "width": 64, "depth": 1}


def told(batch, metres=40, step=3):
    size = len(batch)
    targets = {"patch_metres": torch.full((size,), metres), "step": torch.full((size,), step)}
    return replace(batch, targets=targets | {"seed": torch.arange(size)})


def clear(batch):
    series = {name: replace(one, valid=torch.ones_like(one.valid)) for name, one in batch.series.items()}
    return replace(batch, series=series)


@pytest.fixture
def recipe():
    torch.manual_seed(0)
    return AnySatJEPA(build_encoder("anysat", None, SMALL)).train()


@pytest.fixture
def batch():
    return told(random_batch(SMALL["modalities"], side=32))


def rngs(count=3):
    return [np.random.default_rng(number) for number in range(count)]


def test_it_learns_what_it_is_shown(recipe, batch):
    optimizer = torch.optim.AdamW([one for one in recipe.parameters() if one.requires_grad], 1e-3)
    losses = []
    for _ in range(12):
        figures = recipe(batch)
        figures["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(figures["loss"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none(recipe, batch):
    recipe(batch)["loss"].backward()
    without = [name for name, one in recipe.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []
    assert all(one.grad is None for one in recipe.teacher.parameters())


def test_the_same_step_gives_the_same_loss(recipe, batch):
    assert recipe(batch)["loss"].item() == recipe(batch)["loss"].item()


def test_padding_dates_do_not_change_the_loss(recipe, batch):
    longer = replace(batch, series={name: pad_dates(one, 2) for name, one in batch.series.items()})
    assert recipe(longer)["loss"].item() == pytest.approx(recipe(batch)["loss"].item(), abs=1e-5)


def test_half_of_the_dates_are_gone_not_masked(recipe, batch):
    observed = recipe.encoder.observe(clear(batch))
    dropped = drop_dates(observed, 0.5, rngs())
    assert dropped["s2"].values.shape[1] == 2  # of 5
    assert dropped["s1-asc"].values.shape[1] == 1  # of 3
    for name, one in dropped.items():
        for row in range(len(batch)):
            assert set(one.dates[row].tolist()) <= set(observed[name].dates[row].tolist())


def test_padding_is_none_of_the_dates_that_are_kept(recipe, batch):
    longer = replace(clear(batch), series={name: pad_dates(one, 6) for name, one in clear(batch).series.items()})
    dropped = drop_dates(recipe.encoder.observe(longer), 0.5, rngs())
    assert dropped["s2"].values.shape[1] == 2
    assert dropped["s2"].valid.all()


def test_a_patch_keeps_one_modality_and_half_of_the_other_tokens(recipe, batch):
    tokens = recipe.encoder.tokens(recipe.encoder.observe(clear(batch)), 40)
    patches = tokens.grid[0] * tokens.grid[1]
    shown = torch.zeros(3, patches, dtype=torch.bool)
    shown[:, [0, 3, 9, 12, 30, 31, 40]] = True
    context, mask = first_true(shown)
    hidden = type("Hidden", (), {"context": context, "mask": mask})
    kept = keep_tokens(tokens, hidden, 0.5, rngs())
    for keys, there in zip(kept.keys, kept.key_mask, strict=True):
        places = keys[there] % patches
        assert there.sum() == 7 + 3
        assert set(places.tolist()) == {0, 3, 9, 12, 30, 31, 40}


def test_the_modality_that_a_patch_keeps_is_one_that_was_seen(recipe, batch):
    """With no other tokens kept, each patch keeps s2 alone where radar was not seen."""
    tokens = recipe.encoder.tokens(recipe.encoder.observe(clear(batch)), 40)
    patches = tokens.grid[0] * tokens.grid[1]
    everywhere = torch.ones(3, patches, dtype=torch.bool)
    tokens = tokens._replace(seen={"s2": everywhere, "s1-asc": ~everywhere})
    mask = torch.ones(3, patches, dtype=torch.bool)
    hidden = Hidden(torch.arange(patches).expand(3, -1), mask, torch.zeros(1, 1).long(), torch.zeros(1).long())
    kept = keep_tokens(tokens, hidden, 1e-9, rngs())
    assert torch.equal(kept.keys, torch.arange(patches).expand(3, -1))


def test_keeping_everything_is_the_whole_combiner(recipe, batch):
    tokens = recipe.encoder.tokens(recipe.encoder.observe(batch), 40)
    patches = tokens.grid[0] * tokens.grid[1]
    numbers = torch.arange(patches).expand(3, -1)
    keys = torch.arange(2 * patches).expand(3, -1)
    kept = Kept(keys, torch.ones_like(keys, dtype=torch.bool), numbers)
    torch.testing.assert_close(recipe.encoder.combiner(tokens, 4.0, kept), recipe.encoder.combiner(tokens, 4.0))


def test_fewer_tokens_are_computed_not_replaced(recipe, batch):
    tokens = recipe.encoder.tokens(recipe.encoder.observe(clear(batch)), 40)
    keys = torch.tensor([[0, 5, 70], [1, 2, 3], [64, 65, 66]])
    kept = Kept(keys, torch.ones_like(keys, dtype=torch.bool), torch.tensor([[0, 5], [1, 2], [0, 1]]))
    seen = []
    recipe.encoder.combiner.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out.shape))
    assert recipe.encoder.combiner(tokens, 4.0, kept).shape == (3, 3, 64)
    assert seen == [(3, 4, 64)]


def test_contrast_compares_patches_of_all_samples_and_modalities(recipe, batch):
    tokens = recipe.encoder.tokens(recipe.encoder.observe(clear(batch)), 40)
    rows = torch.nn.functional.normalize(torch.cat([x.flatten(0, 1) for x in tokens.patch.values()]), dim=-1)
    group = torch.arange(3 * 64).repeat(2)
    block = torch.arange(6).repeat_interleave(64)
    torch.testing.assert_close(contrast(tokens, 0.1), mil_nce(rows, group, block=block, temperature=0.1))


def test_one_modality_alone_has_no_contrast(batch):
    recipe = AnySatJEPA(build_encoder("anysat", None, SMALL)).train()
    figures = recipe(replace(batch, series={"s2": batch.series["s2"]}))
    assert "contrastive" not in figures
    assert torch.equal(figures["loss"].detach(), figures["jepa"])


def test_a_batch_that_nobody_saw_has_a_finite_loss(recipe, batch):
    blind = {name: replace(one, valid=torch.zeros_like(one.valid)) for name, one in batch.series.items()}
    assert recipe(replace(batch, series=blind))["loss"].isfinite()


def test_the_teacher_follows_the_student(recipe):
    with torch.no_grad():
        recipe.encoder.spatial.token += 1.0
    recipe.after_step(0.0)
    torch.testing.assert_close(recipe.teacher.spatial.token, torch.full((64,), 1 - 0.996), atol=1e-6, rtol=0)
    assert not recipe.train().teacher.training


def test_a_batch_without_its_targets_is_refused(recipe):
    with pytest.raises(ArgumentError, match="needs 'patch_metres'"):
        recipe(random_batch(SMALL["modalities"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"keep_dates": 0.0},
        {"keep_tokens": 1.5},
        {"temperature": 0.0},
        {"predictive": -1.0},
        {"predictive": 0.0, "contrastive": 0.0},
    ],
)
def test_shares_and_temperature_out_of_range_are_refused(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        AnySatJEPAConfig(**changes)
