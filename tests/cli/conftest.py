"""What every test of the command line needs."""

from __future__ import annotations

import sys

import pytest

from eokit_cli.main import main


@pytest.fixture
def eokit(monkeypatch, capsys, tmp_path):
    """`eokit("evaluate", ...)` in an empty folder: exit code, stdout, stderr."""
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
