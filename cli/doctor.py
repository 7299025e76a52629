"""`eokit doctor`: versions, threads, compiled backends and why one is missing, GDAL, a self-test."""

from __future__ import annotations

from typing import Any

import click

from eokit_cli.options import common, emit


@click.command()
@common
def command(as_json: bool, quiet: bool) -> None:
    """Say what this machine can run, and why something is missing.

    Ends with a self-test of about a second; exit code 5 if a part of it came out wrong.
    """
    from eokit.doctor import examine, healthy
    from eokit.errors import SetupError

    report = examine()
    emit(report, as_json, quiet, lambda: _text(report))
    if not healthy(report):
        failed = [name for name, one in report["self_test"].items() if one["ok"] is False]
        raise SetupError(f"the self-test failed: {', '.join(failed)}; the lines above say how")


def _text(report: dict[str, Any]) -> str:
    from eokit.doctor import LIBRARIES

    machine, gdal = report["machine"], report["gdal"]
    lines = [
        f"eokit {report['eokit']}, Python {report['python']}, {report['platform']}",
        f"  {machine['executable']}",
        f"machine     {machine['cores']} cores ({machine['torch_threads']} threads in torch),"
        f" {machine['memory_gib']} GiB memory (freed: {machine['freed_memory']}),"
        f" {machine['free_disk_gib']} GiB free disk here,"
        f" {', '.join(machine['cuda']) or 'no CUDA device'}",
    ]
    for index, (name, version) in enumerate(report["libraries"].items()):
        head = "libraries   " if index == 0 else " " * 12
        lines.append(f"{head}{name:<13}{version or f'missing ({LIBRARIES[name]})'}")
    for index, one in enumerate(report["backends"]):
        head = "backends    " if index == 0 else " " * 12
        lines.append(f"{head}{one['name']:<13}{'yes' if one['available'] else 'no '}  {one['reason']}")
    for index, where in enumerate(dict.fromkeys(report["ops"].values())):
        head = "ops         " if index == 0 else " " * 12
        lines.append(f"{head}{where:<13}{', '.join(op for op, place in report['ops'].items() if place == where)}")
    cog = "" if gdal.get("cog", True) else ", without the COG driver: maps cannot be written"
    lines.append(f"GDAL        {gdal['version'] or gdal['missing']}{cog}")
    signs = {True: "ok", False: "WRONG", None: "left out"}
    for index, (name, one) in enumerate(report["self_test"].items()):
        head = "self-test   " if index == 0 else " " * 12
        lines.append(f"{head}{name:<13}{signs[one['ok']]:<9}{one['note']} ({one['seconds']:.2f} s)")
    return "\n".join(lines)
