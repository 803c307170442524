"""Histograms of how long conversations are and how much of each is trained on, one row per task."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from cotbal.report.style import BLUE, GREEN, INK, MUTED, VERMILION, labels, paper_style

# Inches; a row with its gap, and the gap itself.
_ROW, _GAP, _WIDTH = 0.62, 0.18, 8.0
# The largest tasks alone are drawn.
MOST_ROWS = 16


def lengths_figure(
    tasks: Sequence[Mapping[str, Any]], bins: Sequence[int], unit: str, most: int | None
) -> Figure:
    """Return two columns of histograms: conversations by length, and by what of them is trained on.

    Args:
        tasks: each with "task", and the counts "lengths" and "answers", one for each bin.
        bins: where each bin begins; the last one is open.
        unit: what is counted, "tokens" or "words".
        most: length at which conversations are cut, where it was looked at.
    """
    with paper_style():
        least = sorted((each["measured"] for each in tasks), reverse=True)[:MOST_ROWS][-1]
        rows = [each for each in tasks if each["measured"] >= least][:MOST_ROWS]
        height, names = _ROW * len(rows), labels([each["task"] for each in rows])
        figure = Figure(figsize=(_WIDTH, height))
        for column, (key, colour) in enumerate((("lengths", BLUE), ("answers", GREEN))):
            first, last = _reach(rows, key)
            for row, task in enumerate(rows):
                bottom = 1 - (row + 1) / len(rows)
                axes = figure.add_axes((0.52 * column, bottom, 0.48, (_ROW - _GAP) / height))
                _draw(axes, task[key], colour, first, last, labels=row == len(rows) - 1, bins=bins)
                if column == 0:
                    axes.set_ylabel(names[row], rotation=0, ha="right", va="center", color=INK)
                    _limit(axes, bins, most, label=row == 0)
            axes.set_xlabel(f"{unit} of a conversation" if column == 0 else f"{unit} that are trained on")
        return figure


def _reach(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[int, int]:
    """Return the first and the last bin that is filled in any row."""
    filled = [place for row in rows for place, count in enumerate(row[key]) if count]
    return min(filled, default=0), max(filled, default=0)


def _draw(
    axes: Axes, counts: Sequence[int], colour: str, first: int, last: int, labels: bool, bins: Sequence[int]
) -> None:
    # Bins are of one width here: their edges double in two steps.
    axes.bar([place + 0.5 for place in range(len(counts))], counts, width=0.92, color=colour)
    axes.set_xlim(first - 0.2, last + 1.2)
    ticks = [place for place in range(first, last + 2) if place < len(bins) and _is_tick(bins[place])]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xticklabels([f"{bins[place]:,}" for place in ticks] if labels else [])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")


def _is_tick(edge: int) -> bool:
    return edge == 0 or (edge & (edge - 1) == 0 and edge.bit_length() % 2 == 1)


def _limit(axes: Axes, bins: Sequence[int], most: int | None, label: bool) -> None:
    if most is None or most >= bins[-1]:
        return
    low, high = axes.get_xlim()
    after = bisect_right(bins, most)
    place = after - 1 + (most - bins[after - 1]) / (bins[after] - bins[after - 1])
    if low < place < high:
        axes.axvline(place, color=VERMILION, linewidth=1)
        if label:
            axes.annotate(
                "cut here", (place, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", fontsize=7.5, color=MUTED, ha="center",
            )  # fmt: skip
