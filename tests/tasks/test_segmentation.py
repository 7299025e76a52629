"""The segmentation model: its loss, what learns in each mode, and its bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from eokit.errors import WeightsError
from eokit.models.bundle import load_bundle, save_bundle
from eokit.tasks.features import Tokens, seen_pixels
from eokit.tasks.heads import ConvHead, LinearHead, to_pixels
from eokit.tasks.segmentation import SegmentationModel, SegmentationRecipe
from eokit.tasks.task import Task, pack_features, weights_from_counts
from tests.tasks.toy import preprocessing, toy, toy_batch

CLASSES = ("background", "meadow", "corn", "void")


def model(head: str = "conv", patch_size: int = 4, seed: int = 0) -> SegmentationModel:
    return SegmentationModel(toy(seed, patch_size=patch_size), Task(CLASSES, ignore=3, head=head))


def step(recipe: SegmentationRecipe, batch=None) -> None:
    """One optimiser step that moves everything that learns."""
    recipe.train()
    learning = [p for p in recipe.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.5)
    recipe(batch or toy_batch())["loss"].backward()
    optimiser.step()


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("patch_size", [1, 2, 4, 6, 16])
def test_logits_have_one_value_per_class_and_pixel(head: str, patch_size: int):
    logits = model(head, patch_size)(toy_batch(size=48))
    assert logits.shape == (2, 4, 48, 48)


def test_the_void_class_is_never_predicted():
    fitted = model("linear")
    with torch.no_grad():
        fitted.head.classify.bias[3] = 1e3
    logits = fitted(toy_batch())
    assert (logits.argmax(1) != 3).all()
    assert (logits.softmax(1)[:, 3] == 0).all()


def test_the_loss_is_the_weighted_mean_over_labelled_pixels():
    recipe = SegmentationRecipe(model(), class_weights=[1.0, 2.0, 5.0, 0.0]).eval()
    batch = toy_batch()
    logits, truth = recipe.model(batch), batch.targets["semantic"]
    expected = F.cross_entropy(logits, truth, weight=torch.tensor([1.0, 2.0, 5.0, 0.0]), ignore_index=3)
    torch.testing.assert_close(recipe(batch)["loss"], expected)


def test_a_batch_that_is_all_void_has_no_loss_and_finite_gradients():
    recipe = SegmentationRecipe(model("linear")).eval()
    batch = toy_batch()
    batch.targets["semantic"].fill_(3)
    loss = recipe(batch)["loss"]
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in recipe.parameters())


def test_patches_that_no_date_has_seen_do_not_count():
    recipe = SegmentationRecipe(model("linear", patch_size=4)).eval()
    batch = toy_batch(n=1)
    batch.series["s2"].valid[:, :, :4, :4] = False
    before = recipe(batch)["loss"]
    batch.targets["semantic"][:, :4, :4] = 1
    assert recipe(batch)["loss"] == before


def test_full_changes_the_encoder_and_the_head():
    recipe = SegmentationRecipe(model(), mode="full")
    before = {key: value.clone() for key, value in recipe.model.state_dict().items()}
    step(recipe)
    changed = {key for key, value in recipe.model.state_dict().items() if not torch.equal(value, before[key])}
    assert "encoder.embed.weight" in changed
    assert "head.classify.weight" in changed


@pytest.mark.parametrize("mode", ["frozen", "head-only"])
def test_a_fixed_encoder_stays_bitwise_the_same_while_the_head_learns(mode: str):
    recipe = SegmentationRecipe(model(), mode=mode)
    before = {key: value.clone() for key, value in recipe.model.state_dict().items()}
    batch = toy_batch()
    step(recipe, packed(recipe, batch) if mode == "head-only" else batch)
    changed = {key for key, value in recipe.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("head.") for key in changed)


def packed(recipe: SegmentationRecipe, batch):
    with torch.no_grad():
        rows = pack_features(recipe.model.encoder.eval()(batch))
    stacked = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    return replace(batch, series={}, targets=batch.targets | stacked)


def test_frozen_switches_dropout_of_the_encoder_off_in_training():
    recipe = SegmentationRecipe(model("linear"), mode="frozen").train()
    assert recipe(toy_batch())["loss"] == recipe(toy_batch())["loss"]
    assert recipe.model.head.training


def test_kept_features_give_the_loss_of_the_frozen_encoder():
    recipe = SegmentationRecipe(model(), mode="head-only").eval()
    frozen = SegmentationRecipe(recipe.model, mode="frozen").eval()
    assert recipe(packed(recipe, toy_batch()))["loss"] == frozen(toy_batch())["loss"]


def test_a_bundle_gives_bitwise_the_same_logits(tmp_path: Path):
    fitted = model().eval()
    save_bundle(tmp_path / "b", fitted.to_bundle(preprocessing(), {"steps": 3}))
    again = SegmentationModel.from_bundle(load_bundle(tmp_path / "b")).eval()
    assert again.task == fitted.task
    assert torch.equal(again(toy_batch()), fitted(toy_batch()))


def test_a_bundle_without_a_head_is_refused():
    bundle = model().to_bundle(preprocessing(), {})
    bundle.task = None
    with pytest.raises(WeightsError, match="without a head"):
        SegmentationModel.from_bundle(bundle)


def test_a_head_that_does_not_fit_is_refused_with_the_differing_keys():
    bundle = model("linear").to_bundle(preprocessing(), {})
    bundle.head = model("conv").to_bundle(preprocessing(), {}).head
    with pytest.raises(WeightsError, match=r"classify\.weight is \(4, 32, 1, 1\), the model has \(4, 16\)"):
        SegmentationModel.from_bundle(bundle)


def test_a_head_of_an_unknown_kind_is_refused():
    bundle = model().to_bundle(preprocessing(), {})
    bundle.task = bundle.task | {"head": "upernet"}
    with pytest.raises(WeightsError, match="'upernet' is unknown; heads: linear, conv"):
        SegmentationModel.from_bundle(bundle)


def test_class_weights_fall_with_the_root_of_the_count_and_average_to_one_over_pixels():
    counts = np.array([400, 100, 0, 999])
    weights = np.array(weights_from_counts(counts, ignore=3))
    assert weights[1] / weights[0] == pytest.approx(2)
    assert (weights * counts).sum() / 500 == pytest.approx(1)
    assert weights[2] == weights[3] == 0


def test_the_logits_of_a_pixel_do_not_depend_on_the_extent_of_the_tile():
    torch.manual_seed(0)
    head = ConvHead(16, 2, 3).eval()
    features = replace_patch(torch.randn(1, 16, 20, 20))
    whole, part = head(features), head(replace_patch(features.patch[..., :14, :14]))
    torch.testing.assert_close(whole[..., :16, :16], part[..., :16, :16])


def replace_patch(patch: torch.Tensor):
    from eokit.models.base import Features

    return Features(tile=patch.mean((-2, -1)), patch=patch, seen=torch.ones(patch[:, 0].shape, dtype=torch.bool))


def test_upsampling_keeps_a_constant_map_constant():
    assert torch.equal(to_pixels(torch.full((1, 2, 3, 5), 7.0), 4), torch.full((1, 2, 12, 20), 7.0))


def test_every_pixel_of_a_token_is_seen_where_the_token_is():
    seen = torch.tensor([[[True, False]]])
    assert seen_pixels(seen, 2).tolist() == [[[True, True, False, False]] * 2]


def tokens(n: int = 300, width: int = 8, classes: int = 3) -> Tokens:
    """Separable tokens of classes 0 .. classes - 1, with features far from 0 and of very different spread."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (n,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    noise = 0.1 * torch.randn(n, width, generator=generator)
    return Tokens((centres[labels] + noise) * torch.logspace(-2, 0, width) + 5, labels)


@pytest.mark.parametrize("kind", [LinearHead, ConvHead])
def test_a_new_head_starts_as_the_linear_probe_of_its_tokens(kind):
    train = tokens()
    head = kind(8, 2, 4)
    head.start(train)
    maps = replace_patch(train.features.T[None, :, :, None])
    predicted = head.eval()(maps).argmax(1)[0, ::2, 0]
    assert (predicted == train.labels).float().mean() > 0.98


def test_a_class_without_a_token_can_still_be_learned():
    head = LinearHead(8, 2, 4)
    head.start(tokens(classes=3))
    bias = head.classify.bias
    assert bias[3] == bias[:3].min()
    assert not head.classify.weight[3].any()


def test_the_convolutions_see_standardised_features():
    train, head = tokens(), ConvHead(8, 2, 4)
    head.start(train)
    seen: list[torch.Tensor] = []
    head.decode.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    head(replace_patch(train.features.T[None, :, :, None]))
    torch.testing.assert_close(seen[0].mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[0].std((0, 2, 3)), torch.ones(8), atol=1e-4, rtol=0)
