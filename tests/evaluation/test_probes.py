"""kNN, linear probe and the tokens they learn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from eokit.errors import DataError
from eokit.evaluation.knn import Neighbours
from eokit.tasks import linear_probe
from eokit.tasks.features import Labels, Tokens, encode, sample_tokens
from eokit.tasks.inputs import Reading
from eokit.tasks.metrics import confusion, summarise
from tests.evaluation.toy_data import VOID, ToyPlaces
from tests.tasks.toy import toy

LABELS = Labels("semantic", 4, VOID)
QUIET = Reading(batch_size=3, quiet=True)


def tokens_of(encoder, places, labels: Labels, reading: Reading, share: int = 10**6, seed: int = 0) -> Tokens:
    encoded = encode(encoder, places, labels, reading, "tokens")
    return sample_tokens(encoded, labels, share=share, seed=seed)


def clusters(n: int, seed: int, spread: float, classes: int = 3) -> Tokens:
    """`n` tokens of 8 features around one centre a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(classes, 8)) * 3
    labels = rng.integers(0, classes, n)
    features = centres[labels] + spread * rng.normal(size=(n, 8))
    return Tokens(torch.from_numpy(features).float(), torch.from_numpy(labels))


def noise(n: int, seed: int) -> Tokens:
    rng = np.random.default_rng(seed)
    return Tokens(torch.from_numpy(rng.normal(size=(n, 8))).float(), torch.from_numpy(rng.integers(0, 3, n)))


def accuracy(prediction: torch.Tensor, truth: torch.Tensor) -> float:
    return float((prediction == truth).float().mean())


def test_knn_is_right_on_separable_clusters():
    bank, test = Neighbours.fit(clusters(300, 0, 0.1), 3), clusters(200, 1, 0.1)
    assert accuracy(bank.votes(test.features).argmax(1), test.labels) == 1


def test_knn_is_at_chance_on_noise():
    bank, test = Neighbours.fit(noise(600, 0), 3), noise(900, 1)
    # chance is 1/3; the standard error of 900 tokens is 0.016
    assert abs(accuracy(bank.votes(test.features).argmax(1), test.labels) - 1 / 3) < 0.06


def test_knn_votes_do_not_depend_on_the_length_of_the_features():
    bank, test = Neighbours.fit(clusters(50, 0, 1.0), 3), clusters(20, 1, 1.0)
    # exp(similarity / 0.07) enlarges the rounding of a similarity, 6e-8, fourteen times
    torch.testing.assert_close(bank.votes(test.features), bank.votes(100 * test.features), rtol=1e-5, atol=0)


def test_knn_with_fewer_tokens_than_neighbours_lets_all_vote():
    bank = Neighbours.fit(clusters(5, 0, 0.1), 3)
    assert bank.k == 5
    assert bank.votes(clusters(4, 1, 0.1).features).shape == (4, 3)


def test_a_linear_probe_beats_chance_where_there_is_signal():
    probe = linear_probe.fit(clusters(400, 0, 1.0), clusters(200, 1, 1.0), 3)
    test = clusters(300, 2, 1.0)
    assert accuracy(probe.logits(test.features).argmax(1), test.labels) > 0.9
    assert probe.chosen_on == "validation folds"


def test_a_linear_probe_is_at_chance_on_noise():
    probe = linear_probe.fit(noise(600, 0), noise(300, 1), 3)
    test = noise(900, 2)
    assert abs(accuracy(probe.logits(test.features).argmax(1), test.labels) - 1 / 3) < 0.06


def test_the_penalty_chosen_is_the_one_that_does_best_on_validation():
    train, val = clusters(60, 0, 3.0), clusters(500, 1, 3.0)

    def miou(probe):
        matrix = confusion(probe.logits(val.features).argmax(1)[None], val.labels[None], 3, None)[0]
        return float(summarise(matrix.numpy(), None)["miou"])

    tried = {probe.l2: miou(probe) for probe in linear_probe.along(train, linear_probe.L2, 3, "")}
    assert miou(linear_probe.fit(train, val, 3)) == max(tried.values())
    assert len(set(tried.values())) > 1


def test_without_validation_the_default_penalty_is_used_and_named():
    probe = linear_probe.fit(clusters(50, 0, 1.0), None, 3)
    assert probe.l2 == linear_probe.L2_DEFAULT
    assert "no validation" in probe.chosen_on


@pytest.mark.parametrize("there", [(1, 2), (0, 2, 3)])
def test_classes_without_a_training_token_are_never_predicted(there: tuple[int, ...]):
    train = clusters(200, 0, 0.5, classes=5)
    keep = torch.isin(train.labels, torch.tensor(there))
    probe = linear_probe.fit(Tokens(train.features[keep], train.labels[keep]), None, 5)
    test = clusters(300, 1, 0.5, classes=5)
    prediction = probe.logits(test.features).argmax(1)
    assert set(prediction.tolist()) <= set(there)
    known = torch.isin(test.labels, torch.tensor(there))
    assert accuracy(prediction[known], test.labels[known]) > 0.95


def several(tokens: Tokens) -> Tokens:
    """Two classes that features tell, one that none has and one that all have."""
    ids = tokens.labels
    return Tokens(tokens.features, torch.stack([ids == 0, ids != 2, ids < 0, ids >= 0], 1).long())


def test_a_probe_of_several_classes_is_scikit_learns_one_by_one():
    train = several(clusters(200, 0, 2.0))
    x = train.features.numpy().astype(float)
    scaled = (x - x.mean(0)) / x.std(0)
    (probe,) = linear_probe.along_multilabel(train, (1e-2,), "")
    for k in (0, 1):
        model = LogisticRegression(C=1 / (1e-2 * len(x)), tol=1e-8, max_iter=1000).fit(scaled, train.labels[:, k])
        np.testing.assert_allclose(
            probe.logits(train.features)[:, k], model.decision_function(scaled), rtol=1e-3, atol=1e-3
        )


def test_a_probe_of_several_classes_learns_and_keeps_the_odds_of_constant_ones():
    probe = linear_probe.fit(several(clusters(400, 0, 1.0)), several(clusters(200, 1, 1.0)), 4)
    test = several(clusters(300, 2, 1.0))
    told = probe.logits(test.features) > 0
    assert accuracy(told[:, :2], test.labels[:, :2].bool()) > 0.9
    assert (told[:, 2:] == torch.tensor([False, True])).all()
    assert probe.chosen_on == "validation folds"


def test_the_penalty_of_several_classes_does_best_on_validation():
    train, val = several(clusters(60, 0, 3.0)), several(clusters(500, 1, 3.0))

    def score(probe):
        return average_precision_score(val.labels[:, :2], probe.logits(val.features)[:, :2])

    tried = [score(probe) for probe in linear_probe.along_multilabel(train, linear_probe.L2, "")]
    assert score(linear_probe.fit(train, val, 4)) == pytest.approx(max(tried))
    assert len(set(tried)) > 1


def test_samples_that_no_class_tells_apart_cannot_be_probed():
    with pytest.raises(DataError, match="all 9 training samples have the same classes"):
        linear_probe.fit(Tokens(torch.randn(9, 4), torch.ones(9, 2, dtype=torch.long)), None, 2)


def test_knn_of_several_classes_tells_the_share_of_votes_for_each():
    bank = Neighbours.fit(several(clusters(300, 0, 0.1)), 4)
    test = several(clusters(100, 1, 0.1))
    shares = bank.shares(test.features)
    torch.testing.assert_close(shares, test.labels.float(), atol=1e-4, rtol=0)


def test_knn_shares_of_one_class_add_up_to_one():
    bank = Neighbours.fit(clusters(50, 0, 1.0), 3)
    torch.testing.assert_close(bank.shares(clusters(20, 1, 1.0).features).sum(1), torch.ones(20))


def test_a_single_class_cannot_be_probed():
    with pytest.raises(DataError, match="expected two classes or more"):
        linear_probe.fit(Tokens(torch.randn(9, 4), torch.ones(9, dtype=torch.long)), None, 3)


def test_tokens_are_the_labelled_ones_in_order():
    places = ToyPlaces(4)
    tokens = tokens_of(toy(), places, LABELS, QUIET)
    # half of the first row of tokens is void, the majority of the rest is the field's class
    expected = torch.cat([sample.targets["semantic"][2::4, ::4].flatten() for sample in places.samples])
    assert torch.equal(tokens.labels, expected)
    assert tokens.features.shape == (4 * 16, 16)


def test_tokens_do_not_depend_on_the_batch_size():
    one = tokens_of(toy(), ToyPlaces(5), LABELS, Reading(batch_size=1, quiet=True))
    many = tokens_of(toy(), ToyPlaces(5), LABELS, Reading(batch_size=5, quiet=True))
    torch.testing.assert_close(one.features, many.features)


def test_the_share_of_tokens_drawn_is_the_same_for_the_same_seed():
    first, same, other = (tokens_of(toy(), ToyPlaces(4), LABELS, QUIET, share=5, seed=s) for s in (1, 1, 2))
    assert len(first.labels) == 20
    assert torch.equal(first.features, same.features)
    assert not torch.equal(first.features, other.features)


def test_unseen_tokens_are_not_learned_from():
    places = ToyPlaces(1)
    places.samples[0].series["s2"].valid[:, 8:] = False
    assert len(tokens_of(toy(), places, LABELS, QUIET).labels) == 8


def test_labels_that_are_all_void_are_refused():
    places = ToyPlaces(2)
    for sample in places.samples:
        sample.targets["semantic"].fill_(VOID)
    with pytest.raises(DataError, match="no labelled token"):
        tokens_of(toy(), places, LABELS, QUIET)
