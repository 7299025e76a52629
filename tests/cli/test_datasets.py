"""`eokit datasets`: what is known, and whether a copy is whole."""

import json

import pytest
from click.testing import CliRunner

from eokit.data.formats import FORMATS, get_format
from eokit.data.sensors import all_sensors
from eokit.errors import DataError, UsageError
from eokit_cli.datasets import command
from tests.data.formats import trees


def run(*arguments):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_list_names_every_format():
    lines = run("list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_info_has_source_licence_citation_and_the_command(name):
    info = get_format(name).INFO
    page = run("info", name).stdout
    assert all(text in page for text in (info.licence, info.citation, f"eokit prepare {name}"))
    assert all(one.url in page for one in info.downloads)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_names_itself_and_known_sensors(name):
    info = get_format(name).INFO
    assert info.name == name
    assert set(info.sensors) <= set(all_sensors())


def test_info_as_json_is_the_same_facts():
    assert json.loads(run("info", "pastis", "--json").stdout)["licence"] == get_format("pastis").INFO.licence


def test_an_unknown_data_set_lists_the_known_ones():
    assert "'pastis'" in run("info", "pastiche").stderr
    with pytest.raises(UsageError, match="unknown data set 'pastiche'; data sets: pastis"):
        get_format("pastiche")


def test_check_of_a_whole_copy_finds_nothing(tmp_path):
    result = run("check", "pastis", trees.make_tree(tmp_path / "PASTIS-R"))
    assert result.exit_code == 0
    assert "every file that is needed is there" in result.stdout


def test_check_of_a_damaged_copy_is_a_data_error_with_the_lines_of_prepare(tmp_path):
    tree = trees.make_tree(tmp_path / "PASTIS-R")
    trees.path_of(tree, "s2", 10000).unlink()
    trees.edit(tree, 10001, Fold=None)
    result = run("check", "pastis", tree)
    assert isinstance(result.exception, DataError)
    with pytest.raises(DataError) as refused:
        get_format("pastis").open_source(tree)
    assert result.exception.lines == refused.value.lines


def test_check_as_json_lists_problems_and_notes(tmp_path):
    tree = trees.make_tree(tmp_path / "PASTIS-R")
    trees.path_of(tree, "s2", 10000).unlink()
    for path in tree.glob("ANNOTATIONS/ParcelIDs*"):
        path.unlink()
    found = json.loads(run("check", "pastis", tree, "--json").stdout)
    assert len(found["problems"]) == len(found["notes"]) == 1


def test_check_writes_nothing(tmp_path):
    tree = trees.make_tree(tmp_path / "PASTIS-R")
    before = sorted(tmp_path.rglob("*"))
    run("check", "pastis", tree)
    assert sorted(tmp_path.rglob("*")) == before
