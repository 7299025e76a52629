"""The training loop on a toy recipe."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from eokit.errors import DataError, EokitError, UsageError
from eokit.training.checkpoint import checkpoints
from eokit.training.engine import LoopSettings, Validation, fit
from eokit.training.events import read_events
from eokit.training.run import About
from tests.training.toys import ToyData, ToyRecipe

QUICK = {"steps": 12, "batch_size": 4, "workers": 0, "lr": 0.01, "log_every": 1, "save_every": 5, "device": "cpu"}


def train(run, recipe=None, data=None, *, validation=None, resume=False, **changes):
    recipe, settings = recipe or ToyRecipe(), LoopSettings(**QUICK | changes)
    about = About(settings.model_dump(mode="json"), quiet=True)
    result = fit(recipe, data or ToyData(), settings, run, validation=validation, resume=resume, about=about)
    return recipe, result


def losses(run):
    return [event["loss"] for event in read_events(run, "train")]


def same_weights(a, b):
    return all(torch.equal(one, two) for one, two in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_lowers_the_loss(tmp_path):
    train(tmp_path / "run", steps=200)
    seen = losses(tmp_path / "run")
    assert sum(seen[-20:]) < 0.2 * sum(seen[:20])


def test_the_result_says_how_the_run_ended(tmp_path):
    _, result = train(tmp_path / "run")
    assert (result.step, result.stopped_early, result.best_step) == (12, False, None)
    assert set(result.figures) == {"loss", "told", "grad_norm"}
    assert 0 <= result.data_wait <= 1
    assert result.seconds > 0


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, _ = train(tmp_path / "a", ToyRecipe(dropout=0.5))
    second, _ = train(tmp_path / "b", ToyRecipe(dropout=0.5))
    assert same_weights(first, second)


def test_another_seed_gives_other_weights(tmp_path):
    first, _ = train(tmp_path / "a", seed=0)
    second, _ = train(tmp_path / "b", seed=1)
    assert not same_weights(first, second)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_add_up_to_the_large_batch(tmp_path, accumulate):
    whole, _ = train(tmp_path / "whole", batch_size=8)
    parts, _ = train(tmp_path / "parts", batch_size=8, accumulate=accumulate)
    # The same sums in another order: float32 rounding, grown over 12 steps.
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    torch.testing.assert_close(parts.net.state_dict(), whole.net.state_dict(), rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_divide_into_micro_batches_is_refused(tmp_path):
    with pytest.raises(UsageError, match="use a multiple of 2"):
        train(tmp_path / "run", batch_size=5, accumulate=2)


def test_a_continued_run_ends_with_the_same_bits(tmp_path):
    whole, _ = train(tmp_path / "whole", ToyRecipe(dropout=0.5))
    train(tmp_path / "run", ToyRecipe(dropout=0.5))
    for path in checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        path.rename(tmp_path / path.name)
    continued, _ = train(tmp_path / "run", ToyRecipe(dropout=0.5), resume=True)
    assert same_weights(continued, whole)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_finished_run_continues_with_nothing_to_do(tmp_path):
    first, _ = train(tmp_path / "run")
    second, result = train(tmp_path / "run", resume=True)
    assert result.step == 12
    assert same_weights(first, second)
    assert result.figures["loss"] == losses(tmp_path / "run")[-1]


def test_resume_starts_where_there_is_no_checkpoint(tmp_path):
    assert train(tmp_path / "new", resume=True)[1].step == 12


def test_a_folder_in_use_is_not_started_again(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(UsageError, match=r"run is not empty; continue it with --resume auto, or choose another --out"):
        train(tmp_path / "run")


def test_other_settings_are_refused_by_name(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(UsageError, match=r"lr = 0.5 \(the run has 0.01\); steps = 99 \(the run has 12\)"):
        train(tmp_path / "run", resume=True, lr=0.5, steps=99)


def test_harmless_settings_may_change(tmp_path):
    train(tmp_path / "run")
    assert train(tmp_path / "run", resume=True, log_every=7, save_every=3, keep=9)[1].step == 12


def test_only_the_last_checkpoints_are_kept(tmp_path):
    train(tmp_path / "run", save_every=2, keep=2)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000010", "step-000012"]


def test_going_on_from_an_older_checkpoint_drops_the_later_ones(tmp_path):
    whole, _ = train(tmp_path / "run", save_every=4)
    older = tmp_path / "run" / "checkpoints" / "step-000004"
    again, _ = train(tmp_path / "run", resume=older, save_every=100)
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000004", "step-000012"]
    assert same_weights(whole, again)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path / "a")
    with pytest.raises(UsageError, match=r"not a checkpoint in .*b/checkpoints; there: none"):
        train(tmp_path / "b", resume=tmp_path / "a" / "checkpoints" / "step-000012")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(EokitError, match=r"loss is nan at step 8; the last good checkpoint is .*step-000005"):
        train(tmp_path / "run", ToyRecipe(spoil_at=7 / 12), log_every=100)


def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path):
    with pytest.raises(EokitError, match="the last good checkpoint is none yet"):
        train(tmp_path / "run", ToyRecipe(spoil_at=3 / 12), log_every=100)
    assert checkpoints(tmp_path / "run" / "checkpoints") == []


def test_events_average_over_the_steps_since_the_last(tmp_path):
    train(tmp_path / "fine")
    train(tmp_path / "coarse", log_every=4, save_every=100)
    fine, coarse = losses(tmp_path / "fine"), losses(tmp_path / "coarse")
    assert coarse == pytest.approx([sum(fine[i : i + 4]) / 4 for i in (0, 4, 8)])


def test_events_tell_rate_speed_and_figures(tmp_path):
    train(tmp_path / "run")
    told = {"event", "step", "time", "lr", "loss", "told", "grad_norm", "samples_s", "data_wait"}
    assert set(read_events(tmp_path / "run", "train")[0]) == told


def test_collapsed_features_are_warned_of_once(tmp_path):
    class Collapsed(ToyRecipe):
        def forward(self, batch):
            return super().forward(batch) | {"feature_std": torch.tensor(0.001)}

    train(tmp_path / "run", Collapsed())
    (warning,) = read_events(tmp_path / "run", "warning")
    assert "feature_std is 0.001" in warning["message"]


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path):
    recipe = ToyRecipe()
    norms = []

    class Watch(torch.optim.AdamW):
        def step(self):
            grads = [one.grad for group in self.param_groups for one in group["params"]]
            norms.append(torch.cat([grad.flatten() for grad in grads]).norm().item())
            super().step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim.AdamW", Watch)
        train(tmp_path / "run", recipe, clip=1e-3)
    assert max(norms) <= 1e-3 * (1 + 1e-4)


def test_an_error_of_a_sample_is_passed_on(tmp_path):
    with pytest.raises(DataError, match="sample 3 is cut"):
        train(tmp_path / "run", data=ToyData(broken=3))


def falling(scores):
    values = iter(scores)
    return lambda: {"miou": next(values), "oa": 0.5}


def test_the_best_state_is_given_back(tmp_path):
    at_four, _ = train(tmp_path / "short", save_every=4)
    watch = Validation(every=4, run=falling([0.9, 0.5, 0.4]), metric="miou")
    recipe, result = train(tmp_path / "run", validation=watch, save_every=100, keep=1)
    assert (result.best_step, result.best_metric, result.stopped_early) == (4, 0.9, False)
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in kept] == ["step-000004", "step-000012"]
    assert not same_weights(recipe, at_four)
    from eokit.training.checkpoint import load_recipe

    load_recipe(tmp_path / "short" / "checkpoints" / "step-000004", at_four)
    assert same_weights(recipe, at_four)


def test_patience_stops_the_run(tmp_path):
    watch = Validation(every=2, run=falling([0.5, 0.9, 0.8, 0.9, 0.7]), metric="miou", patience=2)
    _, result = train(tmp_path / "run", validation=watch)
    assert (result.step, result.best_step, result.stopped_early) == (8, 4, True)


def test_the_best_state_survives_a_continuation(tmp_path):
    train(tmp_path / "run", validation=Validation(2, falling([0.5, 0.9, 0.8, 0.7, 0.6, 0.5]), "miou"), keep=1)
    for path in checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        path.rename(tmp_path / path.name)
    watch = Validation(2, falling([0.1] * 4), "miou")
    _, result = train(tmp_path / "run", validation=watch, resume=True)
    assert (result.best_step, result.best_metric) == (4, 0.9)


def test_a_run_goes_on_from_any_checkpoint_that_is_kept(tmp_path):
    scores = [0.1, 0.9, 0.8, 0.7, 0.95, 0.6]
    train(tmp_path / "run", validation=Validation(2, falling(scores), "miou"), save_every=2, keep=3)
    there = checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in there] == ["step-000004", "step-000008", "step-000010", "step-000012"]
    for path in there[::-1]:
        copy = tmp_path / path.name
        shutil.copytree(tmp_path / "run", copy)
        watch = Validation(2, falling([0.2] * 6), "miou")
        assert train(copy, validation=watch, resume=copy / "checkpoints" / path.name, save_every=2)[1].step == 12


def test_a_score_that_is_not_a_number_is_never_best(tmp_path):
    watch = Validation(4, falling([float("nan"), 0.2, float("nan")]), "miou")
    _, result = train(tmp_path / "run", validation=watch)
    assert result.best_step == 8
    for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_validation_runs_in_evaluation_mode_without_gradients(tmp_path):
    recipe = ToyRecipe()

    def check():
        assert not recipe.training
        assert not torch.is_grad_enabled()
        return {"miou": 1.0}

    train(tmp_path / "run", recipe, validation=Validation(5, check, "miou"))
    assert recipe.training
