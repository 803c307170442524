"""Figures of a comparison: dI and dE by method, the radar of figure 2, score by share of data (figure 1b)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotbal.report.charts import improvement_panels, name_rows, whisker
from cotbal.report.comparison_tables import Comparison, share_name, value_in
from cotbal.report.radar import COMPARED, FEWEST, radar_chart
from cotbal.report.style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, VERMILION, labels, panel

_LINES = ("-", "--", ":", "-.")
_COLOURS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, INK)
_MARKERS = "osD^vP*X"


def draw_comparison(content: Comparison) -> dict[str, Figure]:
    """Return the figures of a comparison, or of scores by share, by name; to be called in `paper_style`."""
    if content["kind"] == "shares":
        return {"shares": shares_figure(content)}
    if not content["baseline"]:
        return {}
    figures = {"improvement": improvement_figure(content)}
    names = [row["name"] for row in content["methods"]]
    tasks = {column["task"] for column in content["columns"]}
    if len(tasks) >= FEWEST and all(name in names for name in COMPARED):
        figures["radar"] = relative_figure(content)
    return figures


def improvement_figure(comparison: Comparison) -> Figure:
    """Return dI% and dE% by method as dots with their intervals."""
    rows = [row for row in comparison["methods"] if row["name"] != comparison["baseline"]]
    return improvement_panels(5.6, len(rows), lambda axes, key, label: _measure_panel(axes, rows, key, label))


def _measure_panel(axes: Axes, rows: list[Any], key: str, label: str) -> None:
    for place, row in enumerate(rows):
        value = value_in(row, key)
        colour = VERMILION if row["name"].startswith("CoTBal") else BLUE
        whisker(axes, value, place, colour)
        axes.plot([row[key]], [place], "o", color=colour, markersize=5.5, zorder=3)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    name_rows(axes, [row["name"] for row in rows])
    axes.margins(x=0.1)
    axes.set_xlabel(label)


def relative_figure(comparison: Comparison) -> Figure:
    """Return the scores of EW and CoTBal relative to the baseline's (1 + I of Eq. 12), one axis per task."""
    by_name = {row["name"]: row["improvement"] for row in comparison["methods"]}
    curves = {name: [1 + gain for gain in by_name[name].values()] for name in COMPARED}
    tasks = list(by_name[COMPARED[0]])
    return radar_chart(tasks, curves, ring=f"{comparison['baseline']} (ring at 1)")[0]


def shares_figure(content: Mapping[str, Any]) -> Figure:
    """Return V(share) / V(all data) over the share of the data, a line per task (figure 1b)."""
    figure, axes = panel(4.6, 3.2)
    ratios = list(content["shares"].values())
    looks = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
    names = labels(list(content["tasks"]))
    for number, (of_task, (colour, marker)) in enumerate(zip(content["tasks"].values(), looks, strict=False)):
        if of_task["relative"] is None:
            continue
        line = _LINES[number // len(_COLOURS) % len(_LINES)]
        axes.plot(
            ratios,
            of_task["relative"],
            line,
            marker=marker,
            color=colour,
            markersize=5,
            label=names[number],
            zorder=3,
        )
        for ratio, ends in zip(ratios, of_task["relative_intervals"] or [], strict=False):
            axes.plot([ratio, ratio], ends, "-", color=colour, linewidth=1, alpha=0.5, zorder=2)
    axes.axhline(1, color=MUTED, linewidth=0.8, zorder=1)
    axes.set_xscale("log", base=2)
    shares = [share_name(name, ratio) for name, ratio in content["shares"].items()]
    axes.set_xticks(ratios, shares, color=INK)
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("share of the task's data")
    axes.set_ylabel("score / score on all of it")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4, fontsize=8)
    return figure
