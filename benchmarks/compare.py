"""Two saved reports side by side: which cases became slower or faster, beyond the spread of the runs."""

from __future__ import annotations

import json
from typing import Any

from eokit_bench.report import Report, case_name

COLUMNS = ("case", "contender", "A ms", "B ms", "B / A", "")


def compare(a: Report, b: Report) -> dict[str, Any]:
    """Every contender measured in both: times, their ratio and a verdict; and what makes the two hard to compare.

    The verdict is "slower" or "faster" where the quartiles of the two do not overlap, else "same".
    """
    before, after = measured(a), measured(b)
    rows = [
        {"at": at, "contender": name, "a_ms": x["ms"], "b_ms": y["ms"], "ratio": y["ms"] / x["ms"], "is": verdict(x, y)}
        for (at, name, x), y in ((before[key], after[key][2]) for key in before if key in after)
    ]
    only = {"only_in_a": len(before.keys() - after.keys()), "only_in_b": len(after.keys() - before.keys())}
    return {"rows": rows, **only, "differences": differences(a, b)}


def measured(report: Report) -> dict[str, tuple[dict[str, Any], str, dict[str, Any]]]:
    """Case, contender and figures, by a key that is the same in another report."""
    return {
        json.dumps([report["benchmark"], row["at"], name], sort_keys=True): (row["at"], name, told)
        for row in report["rows"]
        for name, told in row["contenders"].items()
        if "ms" in told
    }


def verdict(a: dict[str, Any], b: dict[str, Any]) -> str:
    if b["ms_quartiles"][0] > a["ms_quartiles"][1]:
        return "slower"
    return "faster" if b["ms_quartiles"][1] < a["ms_quartiles"][0] else "same"


def differences(a: Report, b: Report) -> list[str]:
    """Facts of the machines that differ and that times depend on."""
    facts = ("processor", "device", "threads", "torch", "kernels")
    pairs = [(name, a["machine"].get(name), b["machine"].get(name)) for name in facts]
    return [f"{name}: {x} in A, {y} in B" for name, x, y in pairs if x != y]


def text(comparison: dict[str, Any]) -> str:
    """The comparison as a table, the worst ratio first."""
    rows = sorted(comparison["rows"], key=lambda row: -row["ratio"])
    cells = [COLUMNS] + [
        (
            case_name(row["at"]),
            row["contender"],
            f"{row['a_ms']:.4g}",
            f"{row['b_ms']:.4g}",
            f"{row['ratio']:.2f}",
            "" if row["is"] == "same" else row["is"],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(f"{cell:{'<' if c in (0, 1, 5) else '>'}{widths[c]}}" for c, cell in enumerate(line)).rstrip()
        for line in cells
    ]
    counts = {kind: sum(row["is"] == kind for row in rows) for kind in ("slower", "faster", "same")}
    told = f"{counts['slower']} slower, {counts['faster']} faster, {counts['same']} within the spread"
    left = f"; {comparison['only_in_a']} only in A, {comparison['only_in_b']} only in B"
    return "\n".join([*lines, "", told + left, *(f"differs: {one}" for one in comparison["differences"])])
