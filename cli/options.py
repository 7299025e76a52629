"""Options that several verbs share, and how a verb talks: people read stderr, machines read stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


def common(command: Callable) -> Callable:
    """-v, -q, --json and --debug, as every verb has them."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, only errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more."),
    ):
        command = option(command)
    return command


def settings_options(command: Callable) -> Callable:
    """--config FILE and -o key=value, for verbs that have settings."""
    override = click.option(
        "-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any setting that the file can hold."
    )
    command = override(command)
    return click.option("--config", "config_file", type=PATH, help="Settings from a YAML file.")(command)


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        click.echo(message, err=True)


def emit(result: Any, as_json: bool, table: Callable[[], str] | None = None) -> None:
    """The result on stdout: JSON where asked for, else the text that `table` makes."""
    if as_json:
        click.echo(json.dumps(result, indent=2, default=str))
    elif table is not None:
        click.echo(table())
