"""What the page of the data sets says is what the readers do."""

from importlib import import_module
from pathlib import Path

import pytest

from eokit.data.formats import FORMATS, get_format
from eokit.data.formats.about import Option
from eokit.data.synthetic import WRITERS

PAGE = (Path(__file__).parents[3] / "docs" / "data-sets.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_every_data_set_has_its_rows_and_its_licence(name):
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) >= 2
    licence = get_format(name).INFO.licence.replace("Open Licence ", "")
    assert any(licence in row for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_every_option_is_documented_with_its_default(name):
    options: dict[str, Option] = getattr(import_module(FORMATS[name]), "OPTIONS", {})
    for option, one in options.items():
        row = next((line for line in PAGE.splitlines() if f"| `{option}` |" in line and _of(line, name)), None)
        assert row is not None, option
        default = (
            "none" if one.default is None else ", ".join(one.default) if isinstance(one.default, list) else one.default
        )
        assert f"| {default} |" in row


def test_every_data_set_can_be_made_up():
    assert {"pastis", *WRITERS} == set(FORMATS)


def _of(line: str, name: str) -> bool:
    """Whether an option's row belongs to a data set: the last one named above it."""
    rows = PAGE.splitlines()
    above = rows[: rows.index(line) + 1]
    return next(row for row in reversed(above) if row.startswith("| `")).startswith(f"| `{name}` |")
