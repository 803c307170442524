"""Bars and dots, one row per task or method: difficulty (figure 3b), weights, dI and dE with seed noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cotbal.report import seeds
from cotbal.report.seeds import Estimate
from cotbal.report.style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    PINK,
    SKY,
    VERMILION,
    label_size,
    labels,
    panel,
    spell_in_figure,
)

# Marker (its shape alone tells them apart), colour, size (points), shift so that equal values stay visible.
MARKS = {
    "cotbal": ("o", VERMILION, 8.0, 0.0),
    "contribution": ("s", BLUE, 5.0, -0.12),
    "one2all": ("^", SKY, 5.5, -0.26),
    "all2one": ("v", GREEN, 5.5, 0.26),
    "difficulty": ("D", PINK, 4.5, 0.12),
    "EW": ("s", BLUE, 6.5, -0.1),
    "CoTBal": ("o", VERMILION, 7.5, 0.1),
    "mini run": ("o", BLUE, 7.0, 0.0),
    "mini subset alone": ("o", BLUE, 7.0, 0.0),
}


def difficulty_figure(results: seeds.Results) -> Figure:
    """Return D (Eq. 9) as one bar per task, with the standard error where there are several seeds."""
    values = seeds.vector(results, "difficulty")
    figure, axes = panel(4.4, height_of(len(values)))
    means = [np.nan if value.mean is None else value.mean for value in values]
    places = np.arange(len(values))
    axes.barh(places, means, height=0.62, color=BLUE)
    for place, value in enumerate(values):
        whisker(axes, value, place, INK)
        _value_at_end(axes, value, place)
    name_rows(axes, results["tasks"])
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.margins(x=0.16)
    lows = [value.interval[0] for value in values if value.interval]
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]) if min([*means, *lows]) < 0 else 0.0)
    axes.set_xlabel("difficulty $D_i$   (0 = the mini subset is enough)")
    return figure


def weights_figure(results: seeds.Results) -> Figure:
    """Return each task's weight under every rule (Eq. 5, 7, 8, 10, 11) as dots; equal weighting is a line."""
    figure, axes = panel(4.4, height_of(len(results["tasks"]), row=0.36))
    # CoTBal last, so that its dot lies on top.
    for rule in reversed([rule for rule in seeds.rules(results) if rule in MARKS]):
        values = list(seeds.weights(results, rule).values())
        draw_dots(axes, values, rule, seeds.RULES[rule], errors=rule == "cotbal")
    axes.axvline(1, color=INK, linewidth=1, zorder=1, label="equal (1)")
    name_rows(axes, results["tasks"])
    axes.set_xlabel("task weight $\\lambda_i$")
    _legend(axes)
    return figure


def rules_figure(results: seeds.Results) -> Figure:
    """Return the weights with their intervals, a panel per rule; where the dot is hollow there is none."""
    # Scores may allow no other rule.
    rules = [rule for rule in seeds.rules(results) if rule in MARKS] or ["equal"]
    height, width, gap = height_of(len(results["tasks"])), 1.55, 0.18
    figure = Figure(figsize=(len(rules) * (width + gap), height))
    share = 1 / len(rules)
    by_rule = {rule: list(seeds.weights(results, rule).values()) for rule in rules}
    reach = _reach([value for values in by_rule.values() for value in values])
    for place, rule in enumerate(rules):
        axes = figure.add_axes((place * share, 0, share * width / (width + gap), 1))
        _rule_panel(axes, by_rule[rule], rule)
        name_rows(axes, results["tasks"])
        axes.set_xlim(*reach)
        axes.tick_params(labelleft=place == 0)
        axes.set_title(seeds.RULES[rule], fontsize=9, color=INK)
    figure.supxlabel("task weight $\\lambda_i$", fontsize=9, color=MUTED, y=-0.42 / height, va="top")
    return figure


def _rule_panel(axes: Axes, values: Sequence[Estimate], rule: str) -> None:
    colour = VERMILION if rule == "cotbal" else BLUE
    for place, value in enumerate(values):
        whisker(axes, value, place, colour)
        face = colour if value.interval else "none"
        mean = np.nan if value.mean is None else value.mean
        axes.plot([mean], [place], "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=3)
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _reach(values: Sequence[Estimate]) -> tuple[float, float]:
    """Return the common limits of panels: all dots and intervals and the line at 1."""
    ends = [end for value in values for end in (value.mean, *(value.interval or ())) if end is not None]
    low, high = min([1.0, *ends]), max([1.0, *ends])
    room = 0.06 * max(high - low, 0.1)
    return low - room, high + room


def relative_figure(results: seeds.Results, methods: Sequence[str]) -> Figure:
    """Return test scores relative to STL as dots: the radar chart's data where two tasks span no area."""
    values = {
        method: [shifted(value, 1.0) for value in seeds.improvement(results, method).values()]
        for method in methods
    }
    return _line(results["tasks"], values, "STL (1)", "test score / score of the single-task model")


def reach_line(results: seeds.Results, values: Sequence[Estimate]) -> Figure:
    """Return 1 - D as dots, likewise."""
    mini, full = seeds.mini_data(results), seeds.full_data(results)
    return _line(results["tasks"], {mini: values}, f"{full} (1)", f"score of the {mini} / with {full}")


def _line(tasks: Sequence[str], values: Mapping[str, Sequence[Estimate]], at_one: str, title: str) -> Figure:
    figure, axes = panel(4.4, height_of(len(tasks), row=0.5))
    for name, of_name in values.items():
        draw_dots(axes, of_name, name, name)
    axes.axvline(1, color=INK, linewidth=1, zorder=1, label=at_one)
    name_rows(axes, tasks)
    axes.margins(y=0.4)
    axes.set_xlabel(title)
    _legend(axes)
    return figure


def improvement_figure(results: seeds.Results) -> Figure:
    """Return dI% and dE% (Eq. 13, 14) by method: a small dot per seed, the mean with its standard error."""
    methods = [method for method in seeds.methods(results) if method != "STL"]
    return improvement_panels(
        5.2, len(methods), lambda axes, key, label: _panel_of(axes, results, methods, key, label)
    )


def improvement_panels(width: float, n_rows: int, draw: Callable[[Axes, str, str], None]) -> Figure:
    """Return a figure with dI% beside dE%, the rows named once.

    Args:
        width: of the figure, in inches.
        n_rows: how many rows each panel has.
        draw: draws a panel, given its axes, "delta_i" or "delta_e", and its label.
    """
    figure = Figure(figsize=(width, height_of(n_rows)))
    left, right = figure.add_axes((0, 0, 0.48, 1)), figure.add_axes((0.52, 0, 0.48, 1))
    draw(left, "delta_i", r"$\Delta I\%$   (higher is better)")
    draw(right, "delta_e", r"$\Delta E\%$   (lower is better)")
    right.tick_params(labelleft=False)
    return figure


def draw_dots(axes: Axes, values: Sequence[Estimate], mark: str, label: str, errors: bool = True) -> None:
    """Draw one dot per row in the look of `mark`, with standard errors if asked."""
    marker, colour, size, shift = MARKS[mark]
    means = [np.nan if value.mean is None else value.mean for value in values]
    places = np.arange(len(values)) + shift
    axes.plot(means, places, marker, color=colour, markersize=size, label=label, zorder=3)
    for place, value in enumerate(values):
        if errors:
            whisker(axes, value, place, colour)


def shifted(value: Estimate, by: float) -> Estimate:
    """Return `value` with `by` added to its mean."""
    return Estimate(None if value.mean is None else value.mean + by, value.stderr)


def _panel_of(axes: Axes, results: seeds.Results, methods: Sequence[str], key: str, label: str) -> None:
    for place, method in enumerate(methods):
        singles = [seed[key][method] for seed in seeds.each_seed(results)]
        points = [point for point in singles if point is not None]
        axes.plot(points, [place] * len(points), "o", color=MUTED, markersize=3, alpha=0.6, zorder=2)
        value = seeds.summary(results, key, method)
        colour = VERMILION if method == "CoTBal" else BLUE
        if value.mean is not None:
            axes.plot([value.mean], [place], "D", color=colour, markersize=6, zorder=4)
        whisker(axes, value, place, colour)
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    name_rows(axes, methods)
    axes.margins(x=0.1)
    axes.set_xlabel(label)


def height_of(rows: int, row: float = 0.32) -> float:
    """Return the height in inches of a panel with so many rows."""
    return max(1.0, (row if rows <= 16 else 0.2) * rows)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of a panel, from the top."""
    axes.set_yticks(range(len(names)), labels(names), fontsize=label_size(len(names)), color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def whisker(axes: Axes, value: Estimate, place: float, colour: str) -> None:
    """Draw the interval or the standard error of a value in its row."""
    if value.interval is not None:
        low, high = value.interval
        # A line of its own: the value need not lie in the middle, nor inside.
        axes.plot([low, high], [place, place], "|-", color=colour, linewidth=1.3, markersize=5, zorder=2)
    elif value.mean is not None and value.stderr is not None:
        axes.errorbar(
            value.mean, place, xerr=value.stderr, fmt="none", ecolor=colour, elinewidth=1.3, capsize=2.5
        )


def _value_at_end(axes: Axes, value: Estimate, place: int) -> None:
    if value.mean is None:
        return
    outward = 1 if value.mean >= 0 else -1
    ends = value.interval or (value.mean - (value.stderr or 0.0), value.mean + (value.stderr or 0.0))
    end = max(*ends, value.mean) if outward > 0 else min(*ends, value.mean)
    axes.annotate(
        spell_in_figure(value.mean),
        (end, place),
        xytext=(4 * outward, 0),
        textcoords="offset points",
        ha="left" if outward > 0 else "right",
        va="center",
        fontsize=8,
        color=INK,
    )


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # The line of equal weights first, then CoTBal, then its parts.
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        fontsize=8,
        handletextpad=0.4,
    )
    axes.spines["bottom"].set_color(GRID)
