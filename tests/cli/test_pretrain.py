"""`eokit pretrain` as it is typed."""

from __future__ import annotations

import json
import sys

import pytest

from eokit_cli.main import main
from tests.training.small_stores import SMALL, store_with_fields

ENCODER = [part for key, value in SMALL["encoder"].items() for part in ("-o", f"encoder.{key}={value}")]
LOOP = ["-o", "loop.log_every=1", "-o", "loop.save_every=2", "--workers", "0", "--device", "cpu"]
QUICK = ["--steps", "3", "--batch-size", "2", "--dates", "3", "--crop", "16", *ENCODER, *LOOP]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_with_fields(tmp_path_factory.mktemp("data") / "fields.zarr").path


@pytest.fixture
def eokit(monkeypatch, capsys, tmp_path):
    """`eokit("pretrain", ...)` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["eokit", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        return code, *capsys.readouterr()

    return call


def test_the_end_says_where_the_bundle_is_and_what_comes_next(eokit, store, tmp_path):
    code, out, _ = eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    assert code == 0
    assert "bundle  run/bundle  (trained on SYNTHETIC data)" in out
    assert f"eokit finetune run --data {store}" in out
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_only_thing_on_stdout(eokit, store):
    code, out, _ = eokit("pretrain", "--data", store, "--out", "run", "--json", *QUICK)
    told = json.loads(out)
    assert code == 0
    assert (told["bundle"], told["step"], told["synthetic"], told["masks"]) == ("run/bundle", 3, True, "parcels")


def test_quiet_says_nothing(eokit, store):
    assert eokit("pretrain", "--data", store, "--out", "run", "-q", *QUICK) == (0, "", "")


def test_the_only_store_and_a_dated_folder_are_the_defaults(eokit, store, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fields.zarr").symlink_to(store)
    assert eokit("pretrain", *QUICK)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("cropsts-20")


def test_without_any_store_the_way_out_is_told(eokit):
    code, _, err = eokit("pretrain")
    assert code == 2
    assert "eokit prepare synthetic" in err


def test_a_folder_in_use_is_exit_2(eokit, store, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    code, _, err = eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    assert code == 2
    assert "run is not empty; continue it with --resume auto, or choose another --out" in err


def test_resume_needs_nothing_but_the_folder(eokit, store):
    eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    code, out, err = eokit("pretrain", "--out", "run", "--resume", "auto", "--json")
    assert code == 0
    assert json.loads(out)["settings"]["dates"] == 3
    assert "going on from run/checkpoints/step-000003 (3 of 3 steps done)" in err


def test_resume_alone_goes_on_from_the_newest_checkpoint(eokit, store):
    eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    for typed in (("--resume", "--out", "run"), ("--out", "run", "--resume")):
        code, _, err = eokit("pretrain", *typed)
        assert code == 0
        assert "going on from run/checkpoints/step-000003" in err


def test_verbose_tells_the_settings_before_the_work(eokit, store):
    _, _, err = eokit("pretrain", "--data", store, "--out", "run", "-v", *QUICK)
    lines = err.splitlines()
    assert lines.index("crop: 16") < next(number for number, line in enumerate(lines) if "masks hide" in line)
    assert f"- {store}" in lines
    assert err.count("\npreset:") == 1


def test_resume_with_other_settings_is_exit_2_and_names_them(eokit, store):
    eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    code, _, err = eokit("pretrain", "--out", "run", "--resume", "auto", "--lr", "0.1")
    assert code == 2
    assert "loop.lr = 0.1 (the run has 0.00025)" in err


def test_a_cut_checkpoint_is_exit_4(eokit, store, tmp_path):
    eokit("pretrain", "--data", store, "--out", "run", *QUICK)
    file = tmp_path / "run" / "checkpoints" / "step-000003" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    code, _, err = eokit("pretrain", "--out", "run", "--resume", "auto")
    assert code == 4
    assert "step-000003: damaged checkpoint" in err
    assert eokit("pretrain", "--out", "run", "--resume", "run/checkpoints/step-000002")[0] == 0


def test_a_dry_run_tells_the_cost_and_writes_nothing(eokit, store, tmp_path):
    code, out, _ = eokit("pretrain", "--data", store, "--dry-run", *QUICK)
    assert code == 0
    assert all(word in out for word in ("parameters", "memory", "3 steps in", "its loss", "nothing was written"))
    assert list(tmp_path.iterdir()) == []


def test_options_beat_the_file_and_overrides_beat_options(eokit, store, tmp_path):
    (tmp_path / "settings.yaml").write_text("dates: 5\nloop: {steps: 9, seed: 3}\n")
    options = ("--config", "settings.yaml", "--steps", 7, "-o", "dates=2", "-o", "loop.lr=1e-3")
    code, out, _ = eokit("pretrain", "--data", store, "--dry-run", "--json", "--workers", 0, *ENCODER, *options)
    settings = json.loads(out)["settings"]
    assert code == 0
    assert (settings["dates"], settings["loop"]["steps"], settings["loop"]["seed"]) == (2, 7, 3)
    assert settings["loop"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--preset", "huge"), 2, "no preset 'huge'"),
        (("--model", "bert9"), 2, "unknown model 'bert9'"),
        (("--folds", "9"), 3, "9"),
        (("--epochs", "2"), 2, "a run has one length"),
        (("--modalities", "s9"), 2, "modality 's9'"),
        (("--crop", "15"), 2, "crop = 15"),
        (("-o", "loop.rate=1"), 2, "loop.rate"),
        (("--device", "cuda:7"), 5, "cuda:7"),
    ],
)
def test_mistakes_are_one_line_with_their_exit_code(eokit, store, arguments, code, says):
    left, out, err = eokit("pretrain", "--data", store, "--out", "run", "-q", *QUICK, *arguments)
    assert (left, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1
