"""Pictures of a report: times over the length, with the spread, a panel for each kind of case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eokit.viz.style import new_figure, save_figure
from eokit_bench.report import Report, case_name, shared

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENGTH = "T"
"""The key of a case that is drawn along x."""
COLOURS = ("#2166ac", "#d6604d", "#4d9221", "#8073ac", "#e08214", "#35978f", "#878787", "#c51b7d")
COLUMNS = 2
WIDE = 10
"""A range of this ratio has three of 1, 2, 5, 10 ... in it, wherever it lies."""
Figures = dict[str, Any]


def draw_times(report: Report, path: Path) -> Path:
    """Milliseconds over dates by contender, or bars where there is one length; a panel for each kind of case."""
    panels: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        if any("ms" in told for told in row["contenders"].values()):
            panels.setdefault(panel_title(row["at"], report["rows"]), []).append(row)
    columns = min(COLUMNS, max(len(panels), 1))
    down = -(-max(len(panels), 1) // columns)
    figure = new_figure(4.4 * columns, 3.1 * down + 0.7)
    names = contender_names(report["rows"])
    for number, (title, rows) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(down, columns, number)
        axes.set_title(title, fontsize=10, loc="left")
        if len(rows) > 1:
            draw_lines(axes, rows, lambda told: told["ms"], lambda told: told["ms_quartiles"])
            axes.set_ylabel("ms", fontsize=9)
        else:
            draw_bars(axes, rows[0], names)
    if any(len(rows) > 1 for rows in panels.values()):
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), fontsize=9, frameon=False)
    figure.suptitle(subject(report), fontsize=11)
    return save_figure(figure, path)


def draw_lines(
    axes: Axes,
    rows: list[dict[str, Any]],
    value: Callable[[Figures], float],
    spread: Callable[[Figures], list[float]] | None = None,
    style: str = "-",
    suffix: str = "",
) -> None:
    """A line for each contender over the dates of its rows, on logarithmic axes."""
    from matplotlib.ticker import NullLocator

    names = contender_names(rows)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            (row["at"][LENGTH], row["contenders"][name]) for row in rows if "ms" in row["contenders"].get(name, {})
        ]
        if not points:
            continue
        lengths, told = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        look: dict[str, Any] = {
            "color": colour,
            "linewidth": 1.3 if number else 2.8,
        }  # ours stays visible under another
        axes.plot(lengths, [value(one) for one in told], style, marker=".", label=name + suffix, **look)
        if spread:
            low, high = zip(*(spread(one) for one in told), strict=True)
            axes.fill_between(lengths, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log")
    plain_numbers(axes)
    ticks = sorted({row["at"][LENGTH] for row in rows})
    axes.set_xticks(ticks, [str(one) for one in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.set_xlabel("dates", fontsize=9)
    axes.tick_params(labelsize=8)


def plain_numbers(axes: Axes) -> None:
    """1, 2, 5, 10 ... along y, not powers of ten; even steps where fewer than three of these would be seen."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > WIDE * low else MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_bars(axes: Axes, row: dict[str, Any], names: list[str]) -> None:
    """A bar for each contender, with its quartiles."""
    told = {name: row["contenders"][name] for name in names if "ms" in row["contenders"].get(name, {})}
    for place, (name, one) in enumerate(told.items()):
        axes.barh(place, one["ms"], color=COLOURS[names.index(name) % len(COLOURS)])
        axes.plot(one["ms_quartiles"], [place, place], color="black", linewidth=2)
        shown = f" {one['ms']:.3g}" if one["ms"] < 1000 else f" {one['ms']:,.0f}"
        axes.text(max(one["ms"], one["ms_quartiles"][1]), place, shown, va="center", fontsize=8)
    axes.set_yticks(range(len(told)), list(told), fontsize=8)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.set_xlabel("ms", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def contender_names(rows: list[dict[str, Any]]) -> list[str]:
    """Every contender of these rows, in the order in which they appear: a colour each."""
    return list(dict.fromkeys(name for row in rows for name in row["contenders"]))


def panel_title(at: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What tells this panel from the others: the keys, but for the length, that are not the same in all rows."""
    keys = [key for key in at if key != LENGTH and not shared(key, rows)]
    return ", ".join(str(at[key]) for key in keys) or "time"


def subject(report: Report) -> str:
    """What all rows have in common, and where it was measured."""
    first, facts = report["rows"][0]["at"], report["machine"]
    same = case_name({key: first[key] for key in first if shared(key, report["rows"])})
    return f"{report['benchmark']}: {same}\n{facts['processor']}, {facts['device']}, threads: {facts['threads']}"


def rows_by_pass(report: Report) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The measured rows of forward, and of forward + backward."""
    for name in ("forward", "forward + backward"):
        rows = [row for row in report["rows"] if row["at"]["pass"] == name and row["contenders"]]
        if rows:
            yield name, rows
