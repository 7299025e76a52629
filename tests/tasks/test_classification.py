"""The model for labels of whole samples: its loss, what counts, and its bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from eokit.errors import DataError, UsageError, WeightsError
from eokit.models.bundle import load_bundle, save_bundle
from eokit.tasks.classification import ClassificationModel, ClassificationRecipe, predict_all
from eokit.tasks.features import Tokens
from eokit.tasks.heads import TileHead
from eokit.tasks.segmentation import SegmentationModel
from eokit.tasks.task import Task, pack_features
from tests.tasks.toy import preprocessing, toy, toy_batch

CLASSES = ("oak", "ash", "elm", "none")


def model(kind: str, **changes) -> ClassificationModel:
    return ClassificationModel(toy(), Task(CLASSES, head="linear", label="genus", kind=kind, **changes)).eval()


def batch(kind: str, n: int = 6):
    generator = torch.Generator().manual_seed(1)
    several = torch.randint(2, (n, 4), generator=generator)
    labels = several if kind == "multilabel" else torch.randint(4, (n,), generator=generator)
    return replace(toy_batch(n), targets={"genus": labels})


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_logits_have_one_value_per_class_and_sample(kind):
    assert model(kind)(batch(kind)).shape == (6, 4)


def test_the_loss_of_several_classes_is_the_mean_of_each_class_by_itself():
    recipe, given = ClassificationRecipe(model("multilabel")).eval(), batch("multilabel")
    expected = F.binary_cross_entropy_with_logits(recipe.model(given), given.targets["genus"].float())
    torch.testing.assert_close(recipe(given)["loss"], expected)


def test_the_loss_of_one_class_is_the_weighted_mean_over_samples():
    weights = [1.0, 2.0, 5.0, 0.5]
    recipe, given = ClassificationRecipe(model("classification"), weights).eval(), batch("classification")
    expected = F.cross_entropy(recipe.model(given), given.targets["genus"], weight=torch.tensor(weights))
    torch.testing.assert_close(recipe(given)["loss"], expected)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_samples_that_no_date_has_seen_do_not_count(kind):
    recipe, given = ClassificationRecipe(model(kind)).eval(), batch(kind)
    given.series["s2"].valid[2] = False
    before = recipe(given)["loss"]
    given.targets["genus"][2] = 1 - given.targets["genus"][2].clamp_max(1)
    assert recipe(given)["loss"] == before


def test_void_labels_do_not_count_and_all_void_has_no_loss():
    for kind in ("classification", "multilabel"):
        recipe, given = ClassificationRecipe(model(kind, ignore=9)).eval(), batch(kind)
        unseen = batch(kind)
        unseen.series["s2"].valid[:3] = False
        given.targets["genus"][:3] = 9
        assert recipe(given)["loss"] == recipe(unseen)["loss"] > 0
        given.targets["genus"][:] = 9
        assert recipe(given)["loss"] == 0


def test_void_is_never_told_where_a_sample_has_one_class():
    fitted = model("classification", ignore=3)
    with torch.no_grad():
        fitted.head.classify.bias[3] = 1e3
    assert (fitted.shares(batch("classification"))[:, 3] == 0).all()


def test_probabilities_add_up_to_one_only_where_a_sample_has_one_class():
    torch.testing.assert_close(model("classification").shares(batch("classification")).sum(1), torch.ones(6))
    several = model("multilabel").shares(batch("multilabel"))
    assert ((several > 0) & (several < 1)).all()
    assert not torch.allclose(several.sum(1), torch.ones(6))


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_kept_features_give_the_loss_of_the_frozen_encoder(kind):
    recipe, given = ClassificationRecipe(model(kind), mode="head-only").eval(), batch(kind)
    with torch.no_grad():
        rows = pack_features(recipe.model.encoder.eval()(given), recipe.model.head.reads)
    assert set(rows[0]) == {"tile", "seen"}
    stacked = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    kept = replace(given, series={}, targets=given.targets | stacked)
    assert recipe(kept)["loss"] == ClassificationRecipe(recipe.model, mode="frozen").eval()(given)["loss"]


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_new_head_starts_as_the_linear_probe_of_its_vectors(kind):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, (300,), generator=generator)
    features = torch.randn(3, 16, generator=generator)[ids] * 3 + 0.1 * torch.randn(300, 16, generator=generator)
    several = torch.stack([ids == 0, ids != 2, ids == 1, ids < 0], 1).long()
    head = TileHead(16, 4)
    head.start(Tokens(features + 5, several if kind == "multilabel" else ids))
    logits = head.logits(features + 5)
    right = (logits > 0) == several.bool() if kind == "multilabel" else logits.argmax(1) == ids
    assert right.float().mean() > 0.98


def test_a_bundle_gives_bitwise_the_same_logits(tmp_path: Path):
    fitted = model("multilabel")
    save_bundle(tmp_path / "b", fitted.to_bundle(preprocessing(), {}))
    again = ClassificationModel.from_bundle(load_bundle(tmp_path / "b")).eval()
    assert again.task == fitted.task
    assert torch.equal(again(batch("multilabel")), fitted(batch("multilabel")))


def test_a_head_for_samples_is_no_head_for_maps():
    bundle = model("multilabel").to_bundle(preprocessing(), {})
    with pytest.raises(WeightsError, match="was made for 'multilabel', expected segmentation"):
        SegmentationModel.from_bundle(bundle)


def test_a_head_that_draws_maps_is_refused():
    with pytest.raises(UsageError, match="head 'conv' is unknown; heads: linear"):
        ClassificationModel(toy(), Task(CLASSES, kind="multilabel"))


def test_labels_that_are_all_void_cannot_be_scored():
    fitted, given = model("classification", ignore=9), batch("classification")
    given.targets["genus"][:] = 9
    with pytest.raises(DataError, match="every 'genus' of these folds is void"):
        predict_all(fitted.shares, [given], fitted.task)
