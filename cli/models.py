"""`eokit models`: the model families, their parity with the published ones, and published weights as bundles."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eokit_cli.options import common, emit

if TYPE_CHECKING:
    from eokit.models.info import ModelInfo, SensorRow


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
@click.argument("name", metavar="NAME")
@common
def info(name: str, as_json: bool, quiet: bool) -> None:
    """Say what NAME takes and gives, its sizes, licences, how to cite it, and what it was compared with."""
    from eokit.models.registry import get_info

    known = get_info(name)
    emit(asdict(known), as_json, quiet, lambda: _page(known))


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
