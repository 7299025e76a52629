"""`eokit models`: the model families, their parity with the published ones, and published weights as bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eokit.errors import EokitError
from eokit_cli.options import PATH, common, emit, say

if TYPE_CHECKING:
    from eokit.models.info import ModelInfo, SensorRow
    from eokit.models.parity import Outcome
    from eokit.tasks.convert import Converted

NAME = click.argument("name", metavar="NAME")


@click.group()
def command() -> None:
    """List the models, compare them with the published ones, turn published weights into bundles."""


@command.command("list")
@common
def list_(as_json: bool, quiet: bool) -> None:
    """List the model families."""
    from eokit.models.registry import FAMILIES, get_info

    infos = [get_info(name) for name in FAMILIES]
    emit([asdict(info) for info in infos], as_json, quiet, lambda: "\n".join(_line(info) for info in infos))


@command.command()
@NAME
@common
def info(name: str, as_json: bool, quiet: bool) -> None:
    """Say what NAME takes and gives, its sizes, licences, how to cite it, and what it was compared with."""
    from eokit.models.registry import get_info

    known = get_info(name)
    emit(asdict(known), as_json, quiet, lambda: _page(known))


@command.command()
@NAME
@click.argument("folder", metavar="DIR", type=PATH)
@common
def parity(name: str, folder: Path, as_json: bool, quiet: bool) -> None:
    """Run the recorded cases in DIR through NAME and print how far the outputs are from the recorded ones.

    DIR holds index.json and one .npz a case: inputs and output of the published code, under weights that both sides
    make by the same formula. Exit code 1 where a case differs by more than float32 explains.
    """
    from eokit.models.parity import TOLERANCE, compare
    from eokit.models.registry import published_hook

    outcomes = compare(folder, published_hook(name, "run_case"), quiet)
    failed = [one.file for one in outcomes if not one.passed]
    cases = [asdict(one) | {"passed": one.passed} for one in outcomes]
    result = {"model": name, "folder": str(folder), "tolerance": TOLERANCE, "cases": cases}
    emit(result, as_json, quiet, lambda: _parity_table(outcomes, TOLERANCE))
    if failed:
        raise EokitError(f"{folder}: {len(failed)} of {len(outcomes)} cases differ: {', '.join(failed)}")


@command.command()
@NAME
@click.argument("file", metavar="FILE", type=PATH)
@click.argument("bundle", metavar="BUNDLE", type=PATH)
@click.option("--data", type=PATH, metavar="STORE", help="Put the statistics of this store in.  [default: none]")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@common
def convert(
    name: str, file: Path, bundle: Path, data: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Turn published weights of NAME in FILE (.pth, .safetensors) into a BUNDLE that every verb takes.

    Every tensor of the encoder must be in FILE with its shape, else exit code 4 with the keys that differ.
    Weights come without statistics of the data. With --data the bundle takes those of a store; without, evaluate,
    finetune and embed standardise each store by its own, and maps of GeoTIFFs are refused.
    """
    from eokit.tasks.convert import convert as write_bundle

    result = write_bundle(name, file, bundle, data, overwrite)
    for note in result.notes:
        say(f"note: {note}", quiet)
    emit(asdict(result), as_json, quiet, lambda: _converted(result))


def _converted(result: Converted) -> str:
    statistics = ", ".join(result.modalities) or "none, every store is standardised by its own"
    lines = [result.words, f"statistics  {statistics}", f"bundle      {result.path}"]
    return "\n".join([*lines, "SYNTHETIC statistics"] if result.synthetic else lines)


def _parity_table(outcomes: Sequence[Outcome], tolerance: float) -> str:
    lines = [f"{one.file}  {one.error:8.1e}  {'' if one.passed else 'DIFFERS  '}{one.about}" for one in outcomes]
    passed = sum(one.passed for one in outcomes)
    rule = f"largest difference over the largest recorded value, at most {tolerance:.0e}"
    return "\n".join([*lines, f"{passed} of {len(outcomes)} cases agree: {rule}"])


def _line(info: ModelInfo) -> str:
    return f"{info.name:<8} {info.title}: {info.summary} ({', '.join(info.presets)})"


def _page(info: ModelInfo) -> str:
    sizes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in info.presets.items())
    rows = {
        "what": info.summary,
        "presets": sizes,
        "code": info.code_licence,
        "weights": info.weights,
        "licence": f"of the weights: {info.weights_licence}",
        "cite": info.citation,
        "parity": info.parity,
    }
    return "\n".join([info.title, *(f"  {key:<8} {text}" for key, text in rows.items()), "", *_sensor_table(info)])


def _sensor_table(info: ModelInfo) -> list[str]:
    """Modality -> tensor shape -> bands -> resolution, one line each."""
    head = ("modality", "shape", "metres", "bands", "")
    rows = [head, *(_sensor_row(one) for one in info.sensors)]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], wide, strict=True)), row[4]]).rstrip()
        for row in rows
    ]


def _sensor_row(one: SensorRow) -> tuple[str, str, str, str, str]:
    gsd = "any" if one.gsd is None else f"{one.gsd:g}"
    return one.modality, one.shape, gsd, " ".join(one.bands) or "any", one.title
