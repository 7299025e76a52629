"""Two saved reports side by side: where ours became slower or faster beside the others, and which results were lost.

Milliseconds of two runs differ with whatever else the machine did. What is judged is therefore how many times as long
as ours each other contender takes, both measured in turns of one run.
"""

from __future__ import annotations

import json
from typing import Any

from eokit.errors import UsageError
from eokit_bench.report import Report, case_name

COLUMNS = ("case", "beside", "its ms, A", "B", "our ms, A", "B", "x ours, A", "B", "B / A", "beside it, ours became")
WORDS = (0, 1, len(COLUMNS) - 1)
"""Columns of words, which start at the left."""
LEAST = 0.1
"""A ratio that moved by a smaller share did not move: reports of the same code differ by as much."""
KINDS = {"slower": "slower", "faster": "faster", "same": "within the spread"}
"""Verdicts, and how the summary counts them."""
Entry = tuple[dict[str, Any], str, dict[str, Any]]


def compare(a: Report, b: Report) -> dict[str, Any]:
    """A row for every contender that both measured beside ours: both in ms, ratios, a verdict; and what was lost.

    The verdict is of ours beside that contender: "slower" or "faster" where the ratio moved by more than `LEAST` and
    its quartiles do not overlap, else "same". "against" says that the milliseconds of ours moved the other way: it is
    the other one or the machine that changed. Lost are contenders that A measured and B did not. UsageError for two
    benchmarks, and where they have no case in common.
    """
    if a["benchmark"] != b["benchmark"]:
        raise UsageError(f"A measured {a['benchmark']} and B {b['benchmark']}; give two reports of one benchmark")
    before, after = entries(a), entries(b)
    if before and after and not before.keys() & after.keys():
        raise UsageError(f"no case of A is one of B: A has {some_cases(before)}; B has {some_cases(after)}")
    measured = {key: entry for key, entry in before.items() if "ms" in entry[2]}
    rows, lost = [], []
    for key, (at, name, told) in measured.items():
        if key in after and "ms" not in after[key][2]:
            lost.append({"at": at, "contender": name, "why_not": after[key][2].get("why_not", "has no figure")})
        elif key in after and "times_ours" in told and "times_ours" in after[key][2] and name != ours_of(a, at):
            row = {"at": at, "contender": name, "a_other_ms": told["ms"], "b_other_ms": after[key][2]["ms"]}
            rows.append(contradicted(row | judged(told, after[key][2]) | times_of_ours(a, b, at)))
    only = {"only_in_a": len(measured.keys() - after.keys()), "only_in_b": len(after.keys() - before.keys())}
    return {"rows": rows, "lost": lost, **only, "differences": differences(a, b), "busy": busy(a, b)}


def entries(report: Report) -> dict[str, Entry]:
    """Case, contender and figures, by a key that is the same in another report."""
    return {
        json.dumps([row["at"], name], sort_keys=True): (row["at"], name, told)
        for row in report["rows"]
        for name, told in row["contenders"].items()
    }


def some_cases(found: dict[str, Entry]) -> str:
    """The first cases of a report in words."""
    names = list(dict.fromkeys(case_name(at) for at, _, _ in found.values()))
    return "; ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def row_of(report: Report, at: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in report["rows"] if row["at"] == at)


def ours_of(report: Report, at: dict[str, Any]) -> str:
    return row_of(report, at)["ours"]


def times_of_ours(a: Report, b: Report, at: dict[str, Any]) -> dict[str, float | None]:
    """Milliseconds of ours in both, for people: the verdict does not rest on them."""
    found = {"a_ms": row_of(a, at), "b_ms": row_of(b, at)}
    return {name: row["contenders"].get(row["ours"], {}).get("ms") for name, row in found.items()}


def judged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """How many times as long as ours the contender took, and what that says of ours."""
    x, y = a["times_ours"], b["times_ours"]
    verdict = "same"
    if y / x < 1 - LEAST and b["times_ours_quartiles"][1] < a["times_ours_quartiles"][0]:
        verdict = "slower"
    if y / x > 1 + LEAST and b["times_ours_quartiles"][0] > a["times_ours_quartiles"][1]:
        verdict = "faster"
    return {"a_times_ours": x, "b_times_ours": y, "ratio": y / x, "is": verdict}


def contradicted(row: dict[str, Any]) -> dict[str, Any]:
    """The row with whether ours' own time moved by more than `LEAST` against the verdict."""
    a, b = row["a_ms"], row["b_ms"]
    moved = 0.0 if a is None or b is None else b / a - 1
    return row | {"against": {"slower": moved < -LEAST, "faster": moved > LEAST, "same": False}[row["is"]]}


def verdict(row: dict[str, Any]) -> str:
    """The row's verdict in words."""
    if row["is"] == "same":
        return ""
    return row["is"] + (f", yet took {'less' if row['is'] == 'slower' else 'more'} time" if row["against"] else "")


def differences(a: Report, b: Report) -> list[str]:
    """Facts of the machines that differ and that times depend on."""
    facts = ("processor", "device", "threads", "torch", "kernels", "freed_memory")
    pairs = [(name, a["machine"].get(name), b["machine"].get(name)) for name in facts]
    return [f"{name}: {x} in A, {y} in B" for name, x, y in pairs if x != y]


def busy(a: Report, b: Report) -> list[str]:
    """Where the machine had more to do than its cores can: what is judged there may be noise."""
    told = []
    for name, machine in (("A", a["machine"]), ("B", b["machine"])):
        load, cores = machine.get("load", 0.0), machine.get("cores")
        if cores and load > cores:
            told.append(f"load {load:g} on {cores} cores in {name}; measure again on an idle machine")
    return told


def lost_lines(comparison: dict[str, Any]) -> list[str]:
    """A line for every contender that lost its figure."""
    return [
        f"{case_name(one['at'])}: {one['contender']} lost its figure, {one['why_not']}" for one in comparison["lost"]
    ]


def text(comparison: dict[str, Any]) -> str:
    """The comparison as a table, where ours lost most first."""
    rows = sorted(comparison["rows"], key=lambda row: row["ratio"])
    times, ratios = ("a_other_ms", "b_other_ms", "a_ms", "b_ms"), ("a_times_ours", "b_times_ours", "ratio")
    cells = [COLUMNS] + [
        (
            case_name(row["at"]),
            row["contender"],
            *("" if row[key] is None else f"{row[key]:.4g}" for key in times),
            *(f"{row[key]:.2f}" for key in ratios),
            verdict(row),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(f"{cell:{'<' if c in WORDS else '>'}{widths[c]}}" for c, cell in enumerate(line)).rstrip()
        for line in cells
    ]
    return "\n".join(
        [
            *(lines if rows else ["nothing to compare: no other contender has figures in both"]),
            "",
            *summary(comparison, rows),
        ]
    )


def summary(comparison: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """How many ratios moved, what only one report has, and what the judgement rests on."""
    counts = {kind: sum(row["is"] == kind for row in rows) for kind in KINDS}
    told = ", ".join(f"{counts[kind]} {words}" for kind, words in KINDS.items())
    left = f"; {comparison['only_in_a']} only in A, {comparison['only_in_b']} only in B"
    against = sum(row["against"] for row in rows)
    doubt = [f"{against} against our own milliseconds: the other one or the machine changed there"] if against else []
    differing = [f"differs: {one}" for one in comparison["differences"]]
    differing += [f"busy: {one}" for one in comparison["busy"]]
    basis = "x ours: how many times as long it took, in turns of one run; milliseconds of two runs are not judged"
    return [f"beside the others: {told}{left}", *doubt, basis, *lost_lines(comparison), *differing]
