"""Options that several verbs share, and how a verb talks: people read stderr, machines read stdout."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eokit.errors import UsageError
from eokit.memory import peak_bytes
from eokit.progress import progress_as_json

if TYPE_CHECKING:
    from eokit.config import Settings

PATH = click.Path(path_type=Path)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class NameOf(click.Choice):
    """One of some names; of a mistyped one the nearest is offered."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        near = get_close_matches(str(value).lower(), list(self.choices), 1)
        return super().get_invalid_choice_message(value, ctx) + (f" Did you mean {near[0]!r}?" if near else "")


def common(command: Callable[..., None]) -> Callable[..., None]:
    """-v, -q, --json and --debug, as every verb has them; the verb itself is told of -q and --json."""

    @wraps(command)
    def timed(*, verbose: bool, **given: Any) -> None:
        if verbose and given["quiet"]:
            raise UsageError("-v and -q exclude each other; leave one out")
        started = time.monotonic()
        with _logging(verbose), progress_as_json(given["as_json"]):
            command(**given)
        if verbose:
            say(f"took {time.monotonic() - started:.1f} s, {peak_bytes() / 2**30:.2f} GiB of memory at most")

    wrapped: Callable[..., None] = timed
    for option in (
        debug_option,
        click.option(
            "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; progress is JSON lines."
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and what --json asks for."),
        click.option("-v", "--verbose", is_flag=True, help="Tell settings, weights loaded, time and memory taken."),
    ):
        wrapped = option(wrapped)
    return wrapped


def debug_option(command: Decorated) -> Decorated:
    """--debug; what was given is in the context's object, where `main` finds it after an error."""

    def keep(ctx: click.Context, _: click.Parameter, given: bool) -> None:
        if given:
            ctx.ensure_object(dict)["debug"] = True

    text = "Show the traceback of an error."
    return click.option("--debug", is_flag=True, expose_value=False, callback=keep, help=text)(command)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that what it made for a while is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def settings_options(command: Decorated) -> Decorated:
    """--config FILE and -o key=value, for verbs that have settings."""
    override = click.option(
        "-o", "overrides", multiple=True, metavar="KEY=VALUE", help="Set any setting that the file can hold."
    )
    command = override(command)
    return click.option("--config", "config_file", type=PATH, help="Settings from a YAML file.")(command)


def resume_option(command: Decorated) -> Decorated:
    """--resume of training, alone or with a value."""
    option = click.option(
        "--resume",
        is_flag=False,
        flag_value="auto",
        metavar="[auto|none|CHECKPOINT]",
        help="Go on with the run of --out; alone: auto, its newest checkpoint.  [default: none]",
    )
    return option(command)


def patch_metres_option(command: Decorated) -> Decorated:
    """--patch-metres of the verbs that run an encoder; `eokit.tasks.grid.patch_metres_of` settles it."""
    text = "Edge of a patch of the encoder (AnySat).  [default: as the bundle keeps]"
    return click.option("--patch-metres", type=click.IntRange(min=1), help=text)(command)


def tile_of_option(command: Decorated) -> Decorated:
    """--tile-of of the verbs that read one vector a sample; `eokit.models.base.TileOf` says what they are."""
    text = (
        "The vector of a sample (AnySat): its token, or the mean of its patches, or of those of its modalities before"
        " they are combined.  [default: as the bundle keeps]"
    )
    return click.option("--tile-of", type=click.Choice(["token", "patches", "modalities"]), help=text)(command)


def dry_run_option(what: str) -> Callable[[Decorated], Decorated]:
    """--dry-run, saying `what` it tells."""
    return click.option("--dry-run", is_flag=True, help=f"Print {what}; write nothing.")


def split_names(text: str | None) -> tuple[str, ...] | None:
    """The names in "A,B"; None where nothing was given."""
    return tuple(name.strip() for name in text.split(",")) if text else None


def say(message: str, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        click.echo(message, err=True)


def is_verbose() -> bool:
    """Whether -v was given."""
    return bool(click.get_current_context().params.get("verbose"))


def say_settings(settings: Settings | Mapping[str, Any]) -> None:
    """Under -v, the settings that a verb goes by, as YAML that --config would take, on stderr."""
    if is_verbose():
        import yaml

        plain = settings if isinstance(settings, Mapping) else settings.model_dump(mode="json", exclude={"quiet"})
        say(yaml.safe_dump(json.loads(json.dumps(plain, default=str)), sort_keys=False).rstrip())


def emit(result: Any, as_json: bool, quiet: bool, table: Callable[[], str]) -> None:
    """The result on stdout: JSON where asked for, else the text that `table` makes, nothing under -q."""
    if as_json:
        click.echo(json.dumps(result, indent=2, default=str))
    elif not quiet:
        click.echo(table())


@contextmanager
def _logging(verbose: bool) -> Iterator[None]:
    """Under -v, what eokit logs goes to stderr."""
    if not verbose:
        yield
        return
    log, handler = logging.getLogger("eokit"), logging.StreamHandler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(logging.NOTSET)
        log.removeHandler(handler)
