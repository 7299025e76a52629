"""Checkpoints on disk."""

from __future__ import annotations

import pytest
import torch

from eokit.errors import TargetError, UsageError, WeightsError
from eokit.training import checkpoint
from eokit.training.checkpoint import State, load_checkpoint, save_checkpoint
from eokit.training.optim import make_optimizer
from eokit.training.settings import LoopSettings
from tests.training.toys import ToyRecipe

SETTINGS = {"lr": 0.1, "loop": {"workers": 2, "seed": 0}}


def trained():
    recipe = ToyRecipe()
    optimizer = make_optimizer(recipe, LoopSettings())
    for _ in range(2):
        recipe.net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return recipe, optimizer


@pytest.fixture
def saved(tmp_path):
    recipe, optimizer = trained()
    return save_checkpoint(tmp_path / "checkpoints", State(100, 50, 0.5, 1), recipe, optimizer, SETTINGS)


def load(path, settings=SETTINGS):
    recipe = ToyRecipe()
    optimizer = make_optimizer(recipe, LoopSettings())
    return recipe, optimizer, load_checkpoint(path, recipe, optimizer, settings)


def test_what_was_saved_comes_back(saved):
    recipe, optimizer, state = load(saved)
    wanted, moments = trained()
    assert state == State(100, 50, 0.5, 1)
    torch.testing.assert_close(recipe.state_dict(), wanted.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], moments.state_dict()["state"], rtol=0, atol=0)


def test_a_checkpoint_holds_no_pickle(saved):
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_cut_file_is_refused_with_the_way_out(saved, name):
    file = saved / name
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(WeightsError, match=r"step-000100: damaged checkpoint .* --resume .*step-NNNNNN"):
        load(saved)


def test_a_flipped_bit_is_found(saved):
    file = saved / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="checksum"):
        load(saved)


def test_a_missing_file_is_refused(saved):
    (saved / "state.json").unlink()
    with pytest.raises(WeightsError, match="damaged checkpoint"):
        load(saved)


def test_differing_settings_are_named_with_their_part(saved):
    with pytest.raises(UsageError, match=r"loop.seed = 1 \(the run has 0\)"):
        load(saved, {"lr": 0.1, "loop": {"workers": 5, "seed": 1}})


def test_another_recipe_is_refused(saved):
    recipe = ToyRecipe()
    recipe.more = torch.nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"missing more\.bias"):
        load_checkpoint(saved, recipe, make_optimizer(recipe, LoopSettings()), SETTINGS)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", full)
    recipe, optimizer = trained()
    with pytest.raises(TargetError, match="No space left"):
        save_checkpoint(tmp_path / "checkpoints", State(1), recipe, optimizer, SETTINGS)
    assert list((tmp_path / "checkpoints").iterdir()) == []
