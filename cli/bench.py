"""`eokit bench`: how fast eokit is on this machine beside torch, and whether its results are right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any

import click

from eokit.cores import cores
from eokit_bench.registry import BENCHMARKS, LENGTHS, Benchmark, load
from eokit_cli.options import PATH, common, emit, say, say_settings, sigterm_as_ctrl_c

MOST_LENGTHS, LONGEST = 64, 65_536
DTYPES = ["float32", "bfloat16", "float16"]
POSITIVE = click.IntRange(min=1)
RESULTS = Path("benchmarks/results")
DEFAULT_PLACE = "-"
"""Given to --save, or its value left out."""


class Lengths(click.ParamType):
    """A length, or FROM..TO[:STEP]; without a step the lengths of `LENGTHS` between the two, and both ends."""

    name = "lengths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+)(?::(\d+))?)?", str(value).strip())
        if not found:
            self.fail(f"{value!r} is no length; give a number such as 144, or a range such as 6..144 or 6..144:12")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 0)
        if not 1 <= first <= last <= LONGEST:
            self.fail(f"{value!r}: lengths go from 1 to {LONGEST}, the smaller one first")
        if step and (last - first) // step >= MOST_LENGTHS:
            self.fail(f"{value!r} is {(last - first) // step + 1} lengths, at most {MOST_LENGTHS}; take a larger step")
        if found[3] == "0":
            self.fail(f"{value!r}: the step is at least 1")
        return tuple(range(first, last + 1, step)) if step else between(first, last)


class Share(click.FloatRange):
    """A number from 0 to below 1, and no NaN, which is neither below nor above anything."""

    def __init__(self) -> None:
        super().__init__(0, 1, max_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        share = super().convert(value, param, ctx)
        if math.isnan(share):
            self.fail(f"{value!r} is no share; give a number such as 0.5")
        return float(share)


def between(first: int, last: int) -> tuple[int, ...]:
    """Both ends, and what lies between of `LENGTHS` and, above, of the doubled last."""
    grid = [*LENGTHS, *(LENGTHS[-1] * 2**power for power in range(1, 10))]
    return tuple(sorted({first, last, *(one for one in grid if first < one < last)}))


OPTIONS: dict[str, dict[str, Any]] = {
    "seq_len": {
        "type": Lengths(),
        "multiple": True,
        "metavar": "T|FROM..TO[:STEP]",
        "help": "Dates; repeatable. A range without a step: its ends and, of 6, 12, 24, 36, ..., what lies between.",
    },
    "positions": {"type": POSITIVE, "help": "Positions of a date."},
    "heads": {"type": POSITIVE, "help": "Heads of attention."},
    "head_dim": {"type": click.IntRange(1, 256), "help": "Numbers of a head."},
    "batch": {"type": POSITIVE, "help": "Series at once."},
    "dtype": {"type": click.Choice(DTYPES), "multiple": True, "help": "Repeatable."},
    "device": {"help": "auto, cpu, cuda, cuda:1."},
    "axis": {
        "type": click.Choice(["temporal", "spatial", "joint"]),
        "multiple": True,
        "help": "Dates of a position attend to each other, positions of a date, or all to all; repeatable.",
    },
    "mask_rate": {"type": Share(), "help": "Share that is masked, at random."},
    "backward": {"is_flag": True, "help": "Only forward + backward, or not."},
    "preset": {},
    "width": {"type": POSITIVE, "help": "Features of a token, pixel or row."},
    "rows": {"type": POSITIVE, "help": "Rows."},
    "patches": {"type": POSITIVE, "help": "Of the synthetic season."},
    "workers": {"type": POSITIVE, "help": "Processes that write."},
    "prototypes": {"type": POSITIVE, "help": "Of the DINO cross-entropy."},
    "size": {"type": POSITIVE, "help": "Side of a patch in pixels."},
    "scene": {"type": click.Choice(["pastis", "treesatai"]), "multiple": True, "help": "What is encoded; repeatable."},
    "metres": {"type": POSITIVE, "help": "Edge of a tile."},
    "most_dates": {"type": POSITIVE, "help": "At most so many dates of a series."},
}
"""By field of a benchmark's settings, whose default is the option's."""


@click.group()
def command() -> None:
    """Measure eokit on this machine, beside torch: time, memory, share of what the machine can do.

    Results are compared with float64 first; nothing is printed for a wrong one.
    """


def make_command(word: str, name: str, about: Benchmark) -> click.Command:
    """The command `word` of the benchmark `name`: an option for every field of its settings, and what all share."""

    @common
    def run_benchmark(
        turns: int,
        threads: int | None,
        plot: Path | None,
        save: Path | None,
        overwrite: bool,
        as_json: bool,
        quiet: bool,
        **given: Any,
    ) -> None:
        check_picture(plot)
        for path, flag in ((plot, "--plot"), (save, "--save")):
            check_folder(path, flag)
        if given.get("seq_len"):
            given["seq_len"] = tuple(dict.fromkeys(length for some in given["seq_len"] for length in some))
        settings = about.settings(**{key: value for key, value in given.items() if value not in (None, ())})
        say_settings(asdict(settings))
        how = {"turns": turns, "threads": threads, "overwrite": overwrite}
        with sigterm_as_ctrl_c():
            run_and_tell(name, settings, how, (plot, save, as_json, quiet))

    saved = f"Write the JSON there; without a file to {RESULTS}/DEVICE/{file_name(name)}."
    shared = [
        click.option("--turns", type=click.IntRange(min=3), default=15, show_default=True, help="Rounds, at most."),
        click.option(
            "--threads", type=click.IntRange(1, cores()), help="Of the processor.  [default: as many as torch takes]"
        ),
        click.option("--plot", type=PATH, metavar="FILE.png", help="Draw the times there."),
        click.option("--save", type=PATH, is_flag=False, flag_value=DEFAULT_PLACE, metavar="[FILE.json]", help=saved),
        click.option("--overwrite", is_flag=True, help="Let --save without a file replace the results that are there."),
    ]
    wrapped = run_benchmark
    for option in reversed([*(setting_option(one) for one in fields(about.settings)), *shared]):
        wrapped = option(wrapped)
    return click.command(word, help=about.help)(wrapped)


def file_name(benchmark: str) -> str:
    """Of its results: model-anysat.json for "model anysat"."""
    return f"{benchmark.replace(' ', '-')}.json"


def check_picture(path: Path | None) -> None:
    """Refuse, before anything is measured, a name that says that the picture is something else."""
    if path is not None and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path}: the picture is a PNG, give a name that ends in .png", param_hint="--plot")


def check_folder(path: Path | None, flag: str) -> None:
    """Refuse, before anything is measured, a folder, or a place in one that is not there; those of results are made."""
    if path is None or str(path) == DEFAULT_PLACE:
        return
    if path.is_dir():
        raise click.BadParameter(f"{path}: is a folder; name a file", param_hint=flag)
    if path.parent.is_dir():
        return
    if not path.resolve().is_relative_to(RESULTS.resolve()):
        raise click.BadParameter(f"{path}: there is no folder {path.parent}; make it, or name another", param_hint=flag)


def setting_option(one: Field[Any]) -> Callable[[Any], Any]:
    """The option of a field of settings; left out it stays None, and the field's default holds."""
    flag = f"--{one.name.replace('_', '-')}"
    option = OPTIONS[one.name] | ({"help": one.metadata["help"]} if "help" in one.metadata else {})
    default: Any = one.default
    if option.pop("is_flag", False):
        shown = "both" if default is None else "only forward"
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=f"{option['help']}  [default: {shown}]")
    shown = (
        ", ".join(map(str, default)) if isinstance(default, tuple) else "the scene's" if default is None else default
    )
    return click.option(flag, **option | {"help": f"{option['help']}  [default: {shown}]"})


def run_and_tell(name: str, settings: Any, how: dict[str, Any], told: tuple[Any, ...]) -> None:
    """Measure, write what was asked for, print; EokitError at the end if a contender was wrong."""
    import torch

    from eokit.errors import EokitError, UsageError
    from eokit.files import write_text
    from eokit.nn.device import pick_device
    from eokit_bench import report as reports
    from eokit_bench.machine import device_name
    from eokit_bench.measure import Plan
    from eokit_bench.plot import draw_times

    plot, save, as_json, quiet = told
    if how["threads"]:
        torch.set_num_threads(how["threads"])
    plan = Plan(turns=how["turns"], device=pick_device(getattr(settings, "device", "cpu")))
    if str(save) == DEFAULT_PLACE:
        save = RESULTS / device_name(plan.device) / file_name(name)
        if save.exists() and not how["overwrite"]:
            raise UsageError(f"--save: {save} is there; name another file, or add --overwrite to replace it")
    report = reports.run(name, settings, plan, lambda line: say(line, quiet))
    emit(report, as_json, quiet, lambda: reports.text(report))
    if save is not None:
        say(f"report   {write_text(save, json.dumps(report, indent=2) + chr(10))}", quiet)
    if plot is not None:
        draw = getattr(load(name), "draw", draw_times)
        say(f"picture  {draw(report, plot)}", quiet)
    if report["wrong"]:
        raise EokitError(*report["wrong"])


@click.group("model")
def model() -> None:
    """A forward of a whole model, beside plain torch.

    Plain torch does the work that is published with the model.
    """


for _name, _about in BENCHMARKS.items():
    _group, _, _last = _name.rpartition(" ")
    (model if _group == "model" else command).add_command(make_command(_last, _name, _about))
command.add_command(model)


@command.command("compare")
@click.argument("a", metavar="A.json", type=PATH)
@click.argument("b", metavar="B.json", type=PATH)
@common
def compare_(a: Path, b: Path, as_json: bool, quiet: bool) -> None:
    """Where eokit became slower or faster from A.json to B.json.

    Beside the others of each run, by the ratios within it. Exit code 1 if a contender lost its figure, for example
    because its result became wrong.
    """
    from eokit.errors import EokitError
    from eokit_bench.compare import compare, lost_lines, text
    from eokit_bench.report import read_report

    comparison = compare(read_report(a), read_report(b))
    emit(comparison, as_json, quiet, lambda: text(comparison))
    if comparison["lost"]:
        raise EokitError(*lost_lines(comparison))
