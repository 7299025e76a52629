"""The demo: what it replaces, and that its page says what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eokit.demo import DemoSettings, run_demo
from eokit.errors import UsageError

SMALL = {"patches": 10, "size": 32, "pretrain_steps": 2, "finetune_steps": 2, "quiet": True}


def test_a_folder_with_other_files_is_refused(tmp_path: Path):
    (tmp_path / "thesis.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not empty"):
            run_demo(DemoSettings(out=tmp_path, overwrite=overwrite))


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """The outcomes of two runs of one seed into one folder, in which a file of the user lies by the second time."""
    out = tmp_path_factory.mktemp("demo")
    first = run_demo(DemoSettings(out=out, **SMALL))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="add --overwrite"):
        run_demo(DemoSettings(out=out, **SMALL))
    return out, first, run_demo(DemoSettings(out=out, overwrite=True, **SMALL))


@pytest.mark.slow
def test_overwriting_an_older_demo_leaves_other_files_alone(twice):
    out = twice[0]
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_seed_gives_the_same_scores(twice):
    _, first, second = twice
    assert first["scores"] == second["scores"]
    assert set(first["scores"]) == {
        "linear probe, pretrained",
        "linear probe, random weights",
        "random forest, raw series",
        "fine-tuned",
    }


@pytest.mark.slow
def test_the_page_holds_its_pictures_and_says_synthetic(twice):
    page = Path(twice[1]["page"]).read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) >= 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "SYNTHETIC" in page


@pytest.mark.slow
def test_the_commands_on_the_page_are_known_to_the_command_line(twice):
    import click

    from eokit_cli.main import group

    page = Path(twice[1]["page"]).read_text(encoding="utf-8")
    commands = re.findall(r"^eokit (\w+) (.*)$", page, re.MULTILINE)
    assert [verb for verb, _ in commands] == [
        *("prepare", "pretrain", "evaluate", "evaluate", "evaluate", "finetune", "evaluate", "predict")
    ]
    for verb, rest in commands:
        found = group.get_command(click.Context(group), verb)
        assert found is not None
        found.make_context(verb, rest.replace("</pre>", "").split(), resilient_parsing=False)
