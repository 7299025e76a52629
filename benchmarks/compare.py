"""Two saved reports side by side: where ours became slower or faster beside the others, and which results were lost.

Milliseconds of two runs differ with whatever else the machine did. What is judged is therefore how many times as long
as ours each other contender takes, both measured in turns of one run.
"""

from __future__ import annotations

import json
from typing import Any

from eokit.errors import UsageError
from eokit_bench.report import Report, case_name

COLUMNS = ("case", "beside", "A x ours", "B x ours", "B / A", "A ms", "B ms", "ours is")
LEAST = 0.1
"""A ratio that moved by a smaller share did not move: reports of the same code differ by as much."""
Entry = tuple[dict[str, Any], str, dict[str, Any]]


def compare(a: Report, b: Report) -> dict[str, Any]:
    """A row for every contender that both measured beside ours: ratios, ours in ms, a verdict; and what was lost.

    The verdict is of ours: "slower" or "faster" where the ratio moved by more than `LEAST` and its quartiles do not
    overlap, else "same". Lost are contenders that A measured and B did not. UsageError for two benchmarks.
    """
    if a["benchmark"] != b["benchmark"]:
        raise UsageError(f"A measured {a['benchmark']} and B {b['benchmark']}; give two reports of one benchmark")
    before, after = entries(a), entries(b)
    measured = {key: entry for key, entry in before.items() if "ms" in entry[2]}
    rows, lost = [], []
    for key, (at, name, told) in measured.items():
        if key in after and "ms" not in after[key][2]:
            lost.append({"at": at, "contender": name, "why_not": after[key][2].get("why_not", "has no figure")})
        elif key in after and "times_ours" in told and "times_ours" in after[key][2] and name != ours_of(a, at):
            rows.append({"at": at, "contender": name} | judged(told, after[key][2]) | times_of_ours(a, b, at))
    only = {"only_in_a": len(measured.keys() - after.keys()), "only_in_b": len(after.keys() - before.keys())}
    return {"rows": rows, "lost": lost, **only, "differences": differences(a, b)}


def entries(report: Report) -> dict[str, Entry]:
    """Case, contender and figures, by a key that is the same in another report."""
    return {
        json.dumps([row["at"], name], sort_keys=True): (row["at"], name, told)
        for row in report["rows"]
        for name, told in row["contenders"].items()
    }


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


def differences(a: Report, b: Report) -> list[str]:
    """Facts of the machines that differ and that times depend on."""
    facts = ("processor", "device", "threads", "torch", "kernels")
    pairs = [(name, a["machine"].get(name), b["machine"].get(name)) for name in facts]
    return [f"{name}: {x} in A, {y} in B" for name, x, y in pairs if x != y]


def lost_lines(comparison: dict[str, Any]) -> list[str]:
    """A line for every contender that lost its figure."""
    return [
        f"{case_name(one['at'])}: {one['contender']} lost its figure, {one['why_not']}" for one in comparison["lost"]
    ]


def text(comparison: dict[str, Any]) -> str:
    """The comparison as a table, where ours lost most first."""
    rows = sorted(comparison["rows"], key=lambda row: row["ratio"])
    cells = [COLUMNS] + [
        (
            case_name(row["at"]),
            row["contender"],
            *(f"{row[key]:.2f}" for key in ("a_times_ours", "b_times_ours", "ratio")),
            *("" if row[key] is None else f"{row[key]:.4g}" for key in ("a_ms", "b_ms")),
            "" if row["is"] == "same" else row["is"],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(f"{cell:{'<' if c in (0, 1, 7) else '>'}{widths[c]}}" for c, cell in enumerate(line)).rstrip()
        for line in cells
    ]
    counts = {kind: sum(row["is"] == kind for row in rows) for kind in ("slower", "faster", "same")}
    told = f"{counts['slower']} slower, {counts['faster']} faster, {counts['same']} within the spread"
    left = f"; {comparison['only_in_a']} only in A, {comparison['only_in_b']} only in B"
    differing = [f"differs: {one}" for one in comparison["differences"]]
    return "\n".join([*lines, "", told + left, *lost_lines(comparison), *differing])
