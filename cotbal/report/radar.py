"""The radar chart of CoTBal against equal weighting (the paper's figure 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from cotbal.report import seeds
from cotbal.report.charts import MARKS, reach_line, relative_figure
from cotbal.report.seeds import Estimate, InInterval
from cotbal.report.style import GRID, INK, MUTED, label_size, labels, panel

COMPARED = ("EW", "CoTBal")
FEWEST = 3


def radar_figure(results: seeds.Results) -> Figure:
    """Return the test scores of EW and CoTBal divided by STL's (1 + I of Eq. 12), one axis per task.

    The ring at 1 is STL. The centre is not 0 but the lowest tick. Several seeds: the mean. Two tasks span
    no area, so they are drawn as dots on a line.
    """
    methods = [method for method in COMPARED if method in seeds.methods(results)]
    if len(results["tasks"]) < FEWEST:
        return relative_figure(results, methods)
    curves = {method: relative_scores(results, method) for method in methods}
    return radar_chart(results["tasks"], curves, ring="STL (ring at 1)")[0]


def reach_figure(results: seeds.Results) -> Figure:
    """Return 1 - D_i, one axis per task: what full data would add.

    The ring at 1 is the task's own probe run, in the mode cheap the model of equal weights, in the precise
    difficulty that of the task alone; the band is the interval, where there is one.
    """
    values = [_reach(value) for value in seeds.vector(results, "difficulty")]
    means = [math.nan if value.mean is None else value.mean for value in values]
    tasks = results["tasks"]
    if len(tasks) < FEWEST:
        return reach_line(results, values)
    ends = [value.interval or (mean, mean) for value, mean in zip(values, means, strict=True)]
    band = ([low for low, _ in ends], [high for _, high in ends])
    mini, ring = seeds.mini_data(results), f"{seeds.full_data(results)} (ring at 1)"
    figure, axes = radar_chart(tasks, {mini: means}, ring=ring, room=band)
    angles = [*_angles(len(tasks)), 0.0]
    low, high = ([*side, side[0]] for side in band)
    axes.fill_between(angles, low, high, color=MARKS[mini][1], alpha=0.2, linewidth=0, zorder=2)
    return figure


def _reach(value: Estimate) -> Estimate:
    """Return 1 - D."""
    if value.mean is None or value.interval is None:
        return Estimate(None if value.mean is None else 1 - value.mean, value.stderr)
    low, high = value.interval
    return InInterval(1 - value.mean, 1 - high, 1 - low)


def radar_chart(
    tasks: Sequence[str],
    curves: Mapping[str, Sequence[float]],
    ring: str,
    room: Sequence[Sequence[float]] = (),
) -> tuple[Figure, PolarAxes]:
    """Return a radar chart of the curves, with space for the values of `room`."""
    size = 3.4 if len(tasks) <= 16 else 6.5
    figure, axes = panel(size, size, polar=True)
    assert isinstance(axes, PolarAxes)
    ticks = _ticks([value for curve in (*curves.values(), *room) for value in curve])
    _frame(axes, len(tasks), ticks, ring)
    _name_ticks(axes, ticks, _free_angle(list(curves.values()), ticks))
    for name, curve in curves.items():
        _polygon(axes, name, curve)
    _name_axes(axes, tasks)
    _legend(axes)
    return figure, axes


def relative_scores(results: seeds.Results, method: str) -> list[float]:
    """Return 1 + I for each weighted task, NaN where it is missing."""
    values = seeds.improvement(results, method).values()
    return [math.nan if value.mean is None else 1.0 + value.mean for value in values]


def _ticks(values: Sequence[float]) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min([1.0, *finite]), max([1.0, *finite])
    spread = max(high - low, 0.05)
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(max(0.0, low - 0.3 * spread), high)
    return [float(tick) for tick in ticks if tick >= -1e-9]


def _frame(axes: PolarAxes, count: int, ticks: Sequence[float], ring: str) -> None:
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_ylim(ticks[0], ticks[-1])
    axes.set_xticks(_angles(count), [""] * count)
    axes.spines["polar"].set_visible(False)
    axes.set_yticks(ticks[1:], [""] * len(ticks[1:]))
    circle = np.linspace(0, 2 * math.pi, 181)
    axes.plot(circle, np.ones_like(circle), color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label=ring)


def _free_angle(curves: Sequence[Sequence[float]], ticks: Sequence[float]) -> float:
    """Return the angle half-way between two axes where the curves pass farthest from the ticks."""
    count = len(curves[0])

    def clearance(place: int) -> float:
        pairs = [(curve[place], curve[(place + 1) % count]) for curve in curves]
        middles = [ticks[0] + ((a + b) / 2 - ticks[0]) * math.cos(math.pi / count) for a, b in pairs]
        return min(abs(middle - tick) for middle in middles for tick in ticks[1:])

    return 2 * math.pi * (max(range(count), key=clearance) + 0.5) / count


def _name_ticks(axes: PolarAxes, ticks: Sequence[float], angle: float) -> None:
    digits = 1 if all(abs(tick * 10 - round(tick * 10)) < 1e-9 for tick in ticks) else 2
    for tick in ticks[1:]:
        axes.text(
            angle, tick, f"{tick:.{digits}f}", fontsize=7.5, color=MUTED, ha="center", va="center", zorder=5,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": axes.get_facecolor(), "lw": 0, "alpha": 0.8},
        )  # fmt: skip


def _angles(count: int) -> list[float]:
    return [2 * math.pi * place / count for place in range(count)]


def _polygon(axes: PolarAxes, method: str, curve: Sequence[float]) -> None:
    marker, colour, size, _ = MARKS[method]
    angles = _angles(len(curve))
    closed = [*angles, angles[0]], [*curve, curve[0]]
    axes.plot(
        *closed, marker=marker, color=colour, markersize=size - 3.5, linewidth=1.6, label=method, zorder=4
    )
    if method == "CoTBal":
        axes.fill(angles, curve, color=colour, alpha=0.08, zorder=2)


def _name_axes(axes: PolarAxes, tasks: Sequence[str]) -> None:
    low, high = axes.get_ylim()
    radius = high + 0.05 * (high - low)
    crowded = len(tasks) > 16
    for angle, name in zip(_angles(len(tasks)), labels(tasks), strict=True):
        across, up = math.sin(angle), math.cos(angle)
        side = "center" if abs(across) < 0.1 and not crowded else "left" if across >= -1e-9 else "right"
        turn = 90 - math.degrees(angle) if across >= -1e-9 else 270 - math.degrees(angle)
        axes.text(
            angle, radius, name, fontsize=label_size(len(tasks)), color=INK, ha=side,
            va="center" if crowded or abs(up) < 0.9 else "bottom" if up > 0 else "top",
            rotation=turn if crowded else 0, rotation_mode="anchor",
        )  # fmt: skip


def _legend(axes: Axes) -> None:
    below = -0.12 if len(axes.get_xticks()) <= 16 else -0.25
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, below), ncols=3, fontsize=8, handlelength=1.8)
    axes.grid(color=GRID)
