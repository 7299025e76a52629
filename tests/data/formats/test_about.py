"""eokit.json: what a copy says of itself, and the choices of its reader; a mistake in it is named."""

import json

import pytest

from eokit.data.formats.about import UNKNOWN, About, Option, read_about
from eokit.data.formats.treesatai import INFO
from eokit.errors import DataError

OPTIONS = {
    "radar": Option("the unit of the radar", "dB", ("dB", "linear")),
    "cloud": Option("percent of cloud", None, example=60),
    "key": Option("the name of an array", "species", example="species"),
}


def write(folder, content):
    (folder / "eokit.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_without_the_file_the_data_are_the_published_ones(tmp_path):
    about = read_about(tmp_path, OPTIONS)
    assert about.options == {"radar": "dB", "cloud": None, "key": "species"}
    assert about.origin(INFO) == {
        "dataset": "treesatai",
        "synthetic": False,
        "title": INFO.title,
        "licence": INFO.licence,
        "citation": INFO.citation,
    }


def test_options_alone_do_not_make_the_data_someone_elses(tmp_path):
    about = read_about(write(tmp_path, {"options": {"radar": "linear", "cloud": 40.5}}), OPTIONS)
    assert about.options == {"radar": "linear", "cloud": 40.5, "key": "species"}
    assert about.origin(INFO)["dataset"] == "treesatai"


def test_a_title_makes_the_data_someone_elses(tmp_path):
    origin = read_about(write(tmp_path, {"title": "Forests of Bavaria"}), OPTIONS).origin(INFO)
    assert (origin["dataset"], origin["title"]) == ("treesatai-layout", "Forests of Bavaria")
    assert origin["licence"] == origin["citation"] == UNKNOWN


def test_synthetic_data_never_bear_the_published_licence():
    origin = About(synthetic=True).origin(INFO)
    assert (origin["synthetic"], origin["title"]) == (True, f"Synthetic data in the layout of {INFO.title}")
    assert origin["licence"] == UNKNOWN


WRONG = {
    "{": "cannot be read as JSON",
    "[]": "no JSON object; expected some of title",
    '{"name": "x"}': "unknown name; expected some of title, licence",
    '{"title": 3}': "title must be text",
    '{"title": ""}': "title must be text",
    '{"options": []}': "options is .*expected an object such as",
    '{"options": {"cloudy": 1}}': r"unknown option 'cloudy'; options here: radar \(the unit of the radar\), cloud",
    '{"options": {"radar": "db"}}': 'radar is \'db\', expected one of "dB", "linear"',
    '{"options": {"cloud": true}}': "cloud is True, expected such as 60",
    '{"options": {"key": 7}}': 'key is 7, expected such as "species"',
}


@pytest.mark.parametrize("content", WRONG)
def test_a_mistake_is_named(tmp_path, content):
    with pytest.raises(DataError, match=rf"eokit\.json: .*{WRONG[content]}"):
        read_about(write(tmp_path, content), OPTIONS)
