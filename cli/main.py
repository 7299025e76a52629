"""`eokit`: a lazy group of verbs, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

import click

from eokit import __version__
from eokit.errors import EokitError
from eokit.memory import keep_freed_memory
from eokit_cli.options import debug_option

VERBS = {
    "prepare": "turn a published data set into one Zarr store",
    "inspect": "show what is in a store: sensors, dates, gaps, classes, a picture",
    "datasets": "list the known data sets, what they hold and where they come from",
    "models": "list the models, check them against published ones, convert weights",
    "pretrain": "pretrain an encoder on a store, without labels",
    "finetune": "fine-tune a pretrained encoder on the labels of a store",
    "evaluate": "score a bundle: kNN, linear probe or the fine-tuned model",
    "embed": "write the features of every sample: Zarr, GeoParquet or GeoTIFFs",
    "predict": "draw a map: a Cloud-Optimized GeoTIFF from a store or dated GeoTIFFs",
    "bench": "measure speed and memory on this machine, beside torch",
    "demo": "run the whole chain on a synthetic season, offline, in minutes",
    "doctor": "say what this machine can run, and why something is missing",
}


class LazyGroup(click.Group):
    """Lists the verbs without importing them; a verb's file is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            near = get_close_matches(cmd_name, VERBS, 1)
            ctx.fail(f"No such command {cmd_name!r}.{f' Did you mean {near[0]!r}?' if near else ''}")
        return importlib.import_module(f"eokit_cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EOKIT"})
@click.version_option(__version__, prog_name="eokit")
@debug_option
def group() -> None:
    """Pretrain, fine-tune, evaluate and map with foundation models on satellite image time series.

    The chain: prepare, pretrain, finetune, evaluate, predict. `eokit demo` runs it on a synthetic season.
    """


def main() -> None:
    """Run the command line; every error becomes one line on stderr and its exit code."""
    keep_freed_memory()
    asked: dict[str, bool] = {}
    try:
        group.main(prog_name="eokit", standalone_mode=False, obj=asked)
    except click.exceptions.Abort:
        _leave(("interrupted",), 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EokitError as error:
        _leave(error.lines, error.exit_code, "debug" in asked)
    except Exception as error:
        message = f"{type(error).__name__}: {error} (not foreseen; run again with --debug for the traceback)"
        _leave((" ".join(message.split()),), 1, "debug" in asked)


def _leave(lines: Sequence[str], code: int, debug: bool = False) -> None:
    if debug:
        traceback.print_exc()
    for line in lines:
        click.echo(f"eokit: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
