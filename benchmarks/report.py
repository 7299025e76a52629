"""A benchmark from its cases to what is said of it: measured rows, JSON, tables, and words on where ours loses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eokit.errors import DataError

SCHEMA = 1
"""Of the JSON; another number is refused by `read_report`."""
Report = dict[str, Any]
ALWAYS_NAMED = ("axis", "T", "pass")
"""Keys of a case that stand in its name even where all cases share them."""
NOISY = 1.5
"""A contender whose upper quartile is so many times the lower was disturbed."""
COLUMNS = ("", "ms", "quartiles", "x {ours}", "error", "GB/s", "% copy", "GFLOP/s", "% GEMM", "MiB more")


def run(name: str, settings: Any, plan: Any, told: Callable[[str], None] = lambda line: None) -> Report:
    """Measure every case of a benchmark; `told` is called with a line as each begins."""
    from eokit_bench.registry import load

    return run_cases(name, load(name).cases(settings), asdict(settings), plan, told)


def run_cases(
    name: str,
    cases: Sequence[Any],
    settings: dict[str, Any],
    plan: Any,
    told: Callable[[str], None] = lambda line: None,
    keep: Callable[[Report], bool] = lambda report: True,
) -> Report:
    """Measure `cases`, made by `settings`; `keep` takes the report as far as it is and says whether to go on."""
    from eokit_bench.measure import measure
    from eokit_bench.roofline import higher, roofline

    told("measuring how fast this machine copies and multiplies")
    dtypes = sorted({"float32"} | {case.at.get("dtype", "float32") for case in cases})
    roof, rows = roofline(plan.device, dtypes), []
    for number, case in enumerate(cases, 1):
        told(f"{number}/{len(cases)}  {case_name(case.at)}")
        rows.append(measure(case, plan))
        if not keep(report_of(name, settings, plan, roof, rows)):
            break
    roof = higher(roof, roofline(plan.device, dtypes))  # a machine that others use may have been busy at the start
    report = report_of(name, settings, plan, roof, rows)
    keep(report)
    return report


def report_of(
    name: str, settings: dict[str, Any], plan: Any, roof: dict[str, Any], rows: list[dict[str, Any]]
) -> Report:
    """Measured rows with what they were measured on, and what is to be said of them."""
    from eokit.ops import backends
    from eokit_bench.machine import machine

    import torch  # isort: skip  (after eokit, which says what is missing)

    rows = [with_shares(row, roof) for row in rows]
    facts = machine("torch", "numpy") | {"threads": torch.get_num_threads(), "device": device_label(plan.device)}
    compiled = next(one.reason for one in backends() if one.name == "cpu")
    report = {"schema": SCHEMA, "benchmark": name, "settings": settings, "turns": plan.turns}
    report |= {"machine": facts | {"kernels": compiled}, "roofline": roof, "rows": rows}
    return report | {"loses": losses(report), "wrong": wrong(report), "noisy": noisy(report)}


def device_label(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def with_shares(row: dict[str, Any], roof: dict[str, Any]) -> dict[str, Any]:
    """The row with each contender's percentage of what the machine copies and multiplies at best.

    In the dtype or in float32: where half precision is the slower one, kernels multiply in float32.
    """
    rates = roof["gemm_gflop_per_s"]
    gemm = max(rates[row["at"].get("dtype", "float32")], rates["float32"])
    for told in row["contenders"].values():
        for rate, limit, share in (("gb_per_s", roof["copy_gb_per_s"], "copy"), ("gflop_per_s", gemm, "gemm")):
            if rate in told:
                told[f"percent_of_{share}"] = round(100 * told[rate] / limit, 1)
    return row | in_turn(row, roof)


def in_turn(row: dict[str, Any], roof: dict[str, Any]) -> dict[str, Any]:
    """What a case's bytes and its products take at the machine's best rates: {"in_turn_ms": ...}; {} where unknown.

    Also what mapping the results, the least memory that a contender takes, takes if all of it is new.
    """
    ours, mapped = row["contenders"][row["ours"]], roof.get("new_memory_gb_per_s")
    if mapped is None or "gb_per_s" not in ours:
        return {}
    new = min(told["extra_bytes"] for told in row["contenders"].values() if "extra_bytes" in told)
    parts = {"bytes": ours["gb_per_s"] * ours["ms"] / roof["copy_gb_per_s"], "new_memory": new / mapped / 1e6}
    if "flops" in ours:
        parts["products"] = ours["flops"] / max(roof["gemm_gflop_per_s"].values()) / 1e6
    return {"in_turn_ms": {name: float(f"{ms:.4g}") for name, ms in parts.items()}}


def in_turn_line(parts: dict[str, float]) -> str:
    """Bytes and products one after the other, and apart from them new memory, which results do not always take."""
    needed = {name: ms for name, ms in parts.items() if name != "new_memory"}
    told = " + ".join(f"{name} {ms:.3g}" for name, ms in needed.items())
    total = f" = {sum(needed.values()):.3g}" if len(needed) > 1 else ""
    new = f"{parts['new_memory']:.3g}"
    return f"  at the machine's best, in turn: {told}{total} ms; mapping all results as new memory: {new}"


def losses(report: Report) -> list[str]:
    """A sentence for every case and contender that took less time than ours."""
    found = []
    for row in report["rows"]:
        for name, told in row["contenders"].items():
            ratio = told.get("times_ours")
            if name == row["ours"] or ratio is None or ratio >= 1:
                continue
            low, high = told["times_ours_quartiles"]
            doubt = ", within the spread" if high >= 1 else ""
            found.append(
                f"{own_name(row['at'], report['rows'])}: {name} takes {ratio:.2f} of the time of {row['ours']}"
                f" (quartiles {low:.2f} to {high:.2f}{doubt})"
            )
    return found


def wrong(report: Report) -> list[str]:
    """A line for every contender whose result was not right."""
    return [
        f"{report['benchmark']} {own_name(row['at'], report['rows'])}: {name} is {told['why_not']}"
        for row in report["rows"]
        for name, told in row["contenders"].items()
        if told.get("wrong")
    ]


def noisy(report: Report) -> list[str]:
    """A sentence for every contender whose times lie far apart: something else ran, or memory was new in some turns."""
    return [
        f"{own_name(row['at'], report['rows'])}: half of the times of {name} lie within {low:.4g} to {high:.4g} ms"
        for row in report["rows"]
        for name, told in row["contenders"].items()
        for low, high in [told.get("ms_quartiles", (1, 1))]
        if high > NOISY * low
    ]


def case_name(at: dict[str, Any]) -> str:
    """What tells the case from others, in one line: numbers by name, words as they are; what is off is left out."""
    parts = [f"{key} {value}" if isinstance(value, int | float) else str(value) for key, value in at.items() if value]
    return ", ".join(part.replace("_", " ") for part in parts)


def own_name(at: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The name of a case among these: only what they do not share."""
    return case_name({key: at[key] for key in at if key in ALWAYS_NAMED or not shared(key, rows)})


def shared(key: str, rows: list[dict[str, Any]]) -> bool:
    return len({str(row["at"].get(key)) for row in rows}) == 1


def text(report: Report) -> str:
    """The report for people: the machine, a table a case, and where ours loses."""
    facts, roof = report["machine"], report["roofline"]
    gemm = ", ".join(f"{rate:.4g} GFLOP/s in {dtype}" for dtype, rate in roof["gemm_gflop_per_s"].items())
    first = report["rows"][0]["at"]
    lines = [
        f"{report['benchmark']}: {case_name({key: first[key] for key in first if shared(key, report['rows'])})}",
        f"{facts['processor']}, {facts['device']}, threads: {facts['threads']}, load {facts['load']},"
        f" torch {facts['torch']}",
        f"kernels: {facts['kernels']}; freed memory: {facts['freed_memory']}",
        f"this machine copies {roof['copy_gb_per_s']:.4g} GB/s (read and written) and multiplies {gemm}"
        + (f"; it maps new memory at {new:.3g} GB/s" if (new := roof.get("new_memory_gb_per_s")) else ""),
        f"x {report['rows'][0]['ours']}: the median of the ratios within a turn, not the ratio of the medians",
    ]
    for row in report["rows"]:
        lines += ["", own_name(row["at"], report["rows"])]
        lines += [f"  left out: {row['left_out']}"] if "left_out" in row else table(row)
    sentences = report["loses"] or ["nowhere in this run"]
    lines += ["", f"Where {report['rows'][0]['ours']} loses:", *(f"  {one}" for one in sentences)]
    if report["noisy"]:
        lines += ["", "Noisy, to be measured again when the machine is idle:", *(f"  {one}" for one in report["noisy"])]
    return "\n".join(lines)


def table(row: dict[str, Any]) -> list[str]:
    """The figures of one case in columns; a contender without figures says why."""
    cells = [tuple(name.format(ours=row["ours"]) for name in COLUMNS)] + [
        figure_cells(name, told) for name, told in row["contenders"].items() if "ms" in told
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    shown = [column for column in range(len(COLUMNS)) if any(line[column] for line in cells[1:])]
    lines = [
        "  " + "  ".join(f"{line[c]:<{widths[c]}}" if c == 0 else f"{line[c]:>{widths[c]}}" for c in shown)
        for line in (cells if shown else [])
    ]
    if parts := row.get("in_turn_ms"):
        lines.append(in_turn_line(parts))
    return lines + [f"  {name}: {told['why_not']}" for name, told in row["contenders"].items() if "why_not" in told]


def figure_cells(name: str, told: dict[str, Any]) -> tuple[str, ...]:
    low, high = told["ms_quartiles"]
    numbers = (
        told.get("times_ours"),
        max(told["error"].values(), default=None),
        told.get("gb_per_s"),
        told.get("percent_of_copy"),
        told.get("gflop_per_s"),
        told.get("percent_of_gemm"),
        told["extra_bytes"] / 2**20,
    )
    formats = (".2f", ".1e", ".3g", ".0f", ".4g", ".0f", ".1f")
    cells = ("" if one is None else f"{one:{spec}}" for one, spec in zip(numbers, formats, strict=True))
    return (name, f"{told['ms']:.4g}", f"{low:.4g}..{high:.4g}", *cells)


def read_report(path: Path) -> Report:
    """A saved report; DataError if it is none, or one of another schema."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that --save or --json wrote") from None
    except ValueError:
        raise DataError(f"{path}: is no JSON; give a file that --save or --json wrote") from None
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA:
        raise DataError(f"{path}: has schema {found!r}, this eokit reads {SCHEMA}; measure again with --save")
    if not is_whole(report):
        raise DataError(f"{path}: is no whole report; measure again with --save")
    return report


def is_whole(report: Report) -> bool:
    """Whether it has the parts that others read, each of its kind."""
    kinds = {"benchmark": str, "machine": dict, "rows": list}
    if not all(isinstance(report.get(name), kind) for name, kind in kinds.items()):
        return False
    return bool(report["rows"]) and all(
        isinstance(row, dict)
        and isinstance(row.get("at"), dict)
        and isinstance(row.get("contenders"), dict)
        and all(isinstance(told, dict) and has_figures(told) for told in row["contenders"].values())
        and row.get("ours") in row["contenders"]
        for row in report["rows"]
    )


def has_figures(told: dict[str, Any]) -> bool:
    """Whether what is told of a contender are times and ratios that can be, or none."""
    figures = [told[name] for name in ("ms", "times_ours") if name in told]
    if "times_ours" in told:
        spread = told.get("times_ours_quartiles")
        figures += spread if isinstance(spread, list) and len(spread) == 2 else [None]
    return all(type(x) in (int, float) and 0 < x <= sys.float_info.max for x in figures)
