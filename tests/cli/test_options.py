"""The options of every verb, frozen; and what -q and -v do in all of them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from eokit.models.bundle import load_bundle
from eokit_cli.main import VERBS, group
from tests.training.labelled_stores import labelled_store, random_bundle

EVERYWHERE = "-v --verbose -q --quiet --json --debug --help"
SETTINGS = "--config -o"
MEASURING = "--turns --threads --plot --save --overwrite"
OPTIONS = {
    "prepare": "--synthetic --size --seed --modalities --limit --layout --workers --resume --overwrite --on-error"
    " --dry-run",
    "inspect": "--plot --sample",
    "datasets list": "",
    "datasets info": "",
    "datasets check": "",
    "models list": "",
    "models info": "",
    "models parity": "",
    "models convert": "--data --overwrite",
    "pretrain": f"{SETTINGS} --model --preset --data --out --steps --epochs --batch-size --lr --folds --modalities"
    " --dates --crop --limit --workers --device --seed --resume --dry-run",
    "finetune": f"{SETTINGS} --data --out --steps --mode --label --head --patch-metres"
    " --random-init --train-folds --val-folds"
    " --class-weights --dates --crop --batch-size --lr --limit --workers --device --seed --resume --dry-run",
    "evaluate": f"{SETTINGS} --data --protocol --label --features --folds --train-folds --val-folds --patch-metres"
    " --tile-of"
    " --random-init"
    " --modalities --dates --max-tokens --limit --batch-size --workers --device --seed --out --plot",
    "embed": f"{SETTINGS} --level --modality --patch-metres --tile-of --format --dtype --folds --modalities --dates"
    " --limit --batch-size --workers --device --resume --overwrite --dry-run",
    "predict": f"{SETTINGS} --bands --scale --offset --nodata --folds --dates --limit --tile --overlap --batch-size"
    " --workers --device --resume --overwrite --dry-run",
    "bench attention": "--seq-len --positions --heads --head-dim --batch --dtype --device --axis --mask-rate --backward"
    f" --no-backward {MEASURING}",
    "bench sequence": f"--seq-len --preset --size --batch --dtype --device --backward --no-backward {MEASURING}",
    "bench tokens": f"--positions --width --batch --mask-rate --dtype --device --backward --no-backward {MEASURING}",
    "bench pool": "--seq-len --positions --heads --width --batch --mask-rate --dtype --device --backward --no-backward"
    f" {MEASURING}",
    "bench mlp": f"--rows --dtype --device --backward --no-backward {MEASURING}",
    "bench losses": f"--rows --width --prototypes --device --backward --no-backward {MEASURING}",
    "bench loader": f"--seq-len --patches --size --workers {MEASURING}",
    "bench train-step": f"--seq-len --preset --size --batch --dtype --device {MEASURING}",
    "bench model anysat": f"--scene --preset --metres --most-dates --dtype --device {MEASURING}",
    "bench compare": "",
    "demo": f"{SETTINGS} --out --seed --overwrite",
    "doctor": "",
}


def commands():
    """Every verb, and the parts of `datasets` and `bench`, by name."""

    def below(name, command):
        if not isinstance(command, click.Group):
            return {name: command}
        return {
            long: one for word, part in command.commands.items() for long, one in below(f"{name} {word}", part).items()
        }

    return {
        long: one for verb in VERBS for long, one in below(verb, group.get_command(click.Context(group), verb)).items()
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return labelled_store(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, store):
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", store)


def test_no_verb_comes_or_goes_unnoticed():
    assert list(commands()) == list(OPTIONS)


@pytest.mark.parametrize("verb", OPTIONS)
def test_no_option_comes_or_goes_unnoticed(verb):
    command = commands()[verb]
    there = {name for one in command.get_params(click.Context(command)) if one.param_type_name == "option"
             for name in (*one.opts, *one.secondary_opts)}  # fmt: skip
    assert there - {"-h"} == {*EVERYWHERE.split(), *OPTIONS[verb].split()}


@pytest.mark.parametrize("option", ["--dry-run", "--resume"])
def test_the_readme_says_which_verbs_have_it(option):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if f"have `{option}`" in line or f"and `{option}`" in line]
    told = line.partition(" have ")[0]
    assert {verb for verb in VERBS if f"`{verb}`" in told} == {v for v in OPTIONS if option in OPTIONS[v].split()}


def quick(verb, store, bundle):
    """Arguments with which a verb has something to say and is done in a second."""
    data = ("--data", store.path)
    return {
        "prepare": ("prepare", "synthetic", "--limit", 2, "--size", 16, "--modalities", "s2", "--workers", 1),
        "inspect": ("inspect", store.path),
        "datasets list": ("datasets", "list"),
        "datasets info": ("datasets", "info", "pastis"),
        "models list": ("models", "list"),
        "models info": ("models", "info", "anysat"),
        "pretrain": ("pretrain", *data, "--dry-run", "--device", "cpu"),
        "finetune": ("finetune", bundle, *data, "--dry-run", "--device", "cpu"),
        "evaluate": ("evaluate", bundle, *data, "--protocol", "knn"),
        "embed": ("embed", bundle, store.path, "toy.zarr", "--overwrite"),
        "doctor": ("doctor",),
    }[verb]


TALKING = ("prepare", "inspect", "datasets list", "datasets info", "models list", "models info", "pretrain", "finetune",
           "evaluate", "embed", "doctor")  # fmt: skip


@pytest.mark.parametrize("verb", TALKING)
def test_quiet_prints_nothing(eokit, store, bundle, verb):
    assert eokit(*quick(verb, store, bundle), "-q") == (0, "", "")


@pytest.mark.parametrize("verb", TALKING)
def test_quiet_leaves_json(eokit, store, bundle, verb):
    code, out, err = eokit(*quick(verb, store, bundle), "-q", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)


@pytest.mark.parametrize("verb", TALKING)
def test_verbose_tells_time_and_memory_on_stderr(eokit, store, bundle, verb):
    code, out, err = eokit(*quick(verb, store, bundle), "-v", "--json")
    assert code == 0
    assert json.loads(out)
    assert "of memory at most" in err.splitlines()[-1]


@pytest.mark.parametrize(("verb", "line"), [("pretrain", "preset: tiny"), ("evaluate", "protocol: knn")])
def test_verbose_tells_the_settings(eokit, store, bundle, verb, line):
    assert line in eokit(*quick(verb, store, bundle), "-v")[2].splitlines()


def test_verbose_tells_how_many_tensors_matched_and_nothing_else_does(eokit, store, bundle):
    call = quick("evaluate", store, bundle)
    told = f"{bundle}: all {len(load_bundle(bundle).encoder.state_dict())} tensors match CropSTS"
    assert told in eokit(*call, "-v")[2].splitlines()
    assert "tensors match" not in eokit(*call)[2]


def test_verbose_and_quiet_exclude_each_other(eokit):
    assert eokit("datasets", "list", "-q", "-v")[0] == 2
