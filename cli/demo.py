"""`eokit demo`: the whole chain on a synthetic season, and a page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eokit_cli.options import PATH, common, emit, say_settings, settings_options


@click.command()
@click.option("--out", type=PATH, help="Folder for everything that is made; default: ./demo.")
@click.option("--seed", type=int, help="Seed of the season and of all training; default: 0.")
@click.option("--overwrite", is_flag=True, help="Replace an older demo.")
@settings_options
@common
def command(
    out: Path | None,
    seed: int | None,
    overwrite: bool,
    config_file: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the whole chain on a synthetic season: offline, on two cores, in minutes.

    Draws a season, prepares it, pretrains, probes, fine-tunes, draws a map, and writes one HTML page with all
    pictures inside. The same seed gives the same scores.
    """
    from eokit.config import load_settings
    from eokit.demo import DemoSettings, run_demo

    given = {"out": out, "seed": seed, "overwrite": overwrite, "quiet": quiet or None}
    settings = load_settings(DemoSettings, config_file, overrides, given)
    say_settings(settings)
    result = run_demo(settings)
    emit(result, as_json, quiet, lambda: _text(result))


def _text(result: dict[str, Any]) -> str:
    lines = ["", "Test fold of the SYNTHETIC season:"]
    for name, scores in result["scores"].items():
        miou, oa = scores["miou"], scores["oa"]
        held = miou["interval_95"]
        spread = f" [{100 * held[0]:.1f}, {100 * held[1]:.1f}]" if held else ""
        lines.append(f"  {name:<30} mIoU {100 * miou['value']:5.1f} %{spread:<15} OA {100 * oa['value']:5.1f} %")
    lines += [
        "",
        f"report  {result['page']}",
        f"map     {result['map']}",
        f"{sum(result['seconds'].values()):.0f} s in all",
    ]
    return "\n".join(lines)
