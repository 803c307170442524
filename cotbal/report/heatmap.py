"""The heat map of inter-task contributions (the paper's figure 3a)."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cotbal.report import seeds
from cotbal.report.style import GRID, MUTED, PAPER, label_size, labels, panel, spell_in_figure

MOST_ANNOTATED = 16
MOST_SPANNED = 10
# Seen on the palest and on the darkest cell.
NOISE = "#777777"
_Spans = dict[tuple[int, int], tuple[float, float] | None]
_DIAGONAL, _DIAGONAL_TEXT, _HATCH = "#e9ecef", "#7d8791", "#9aa3ac"


def contribution_figure(results: seeds.Results) -> Figure:
    """Return C (Eq. 3) as a heat map: row i is the task trained in full, column j the task helped.

    Colours are symmetric around 0 and saturate at 1. The diagonal, 1 by definition, is grey; unidentified
    cells are hatched and named above. Cells carry numbers for at most 16 tasks. Several seeds: the mean.
    Intervals stand under the numbers; a dot marks a cell whose interval holds 0 or is unbounded.
    """
    tasks = results["tasks"]
    values = _matrix(results)
    spans = _spans(results)
    cell = max(0.42 if len(tasks) <= MOST_ANNOTATED else 0.15, min(0.9, 4.0 / len(tasks)))
    if spans and len(tasks) <= MOST_SPANNED:
        cell = max(cell, 0.78)
    figure, axes = panel(cell * len(tasks), cell * len(tasks))
    mesh = _mesh(axes, values)
    _mark_cells(axes, values)
    if len(tasks) <= MOST_ANNOTATED:
        _annotate(axes, values, mesh, size=9 if cell >= 0.5 else 7.5, spans=spans)
    _mark_noise(axes, values, spans)
    _name_axes(axes, tasks)
    _colour_bar(figure, mesh, values)
    _note(axes, seeds.unidentified_note(results), width=int(cell * len(tasks) * 14))
    return figure


def _matrix(results: seeds.Results) -> NDArray[np.float64]:
    cells = [[np.nan if c.mean is None else c.mean for c in row] for row in seeds.contribution(results)]
    return np.array(cells, dtype=np.float64)


def _spans(results: seeds.Results) -> _Spans:
    """Return the interval of each known cell off the diagonal, None for an unbounded one."""
    if not seeds.intervals(results):
        return {}
    rows = enumerate(seeds.contribution(results))
    cells = (((i, j), cell) for i, row in rows for j, cell in enumerate(row))
    return {place: cell.interval for place, cell in cells if cell.mean is not None and place[0] != place[1]}


def _mark_noise(axes: Axes, values: NDArray[np.float64], spans: _Spans) -> None:
    """Put a dot into each cell that may as well be 0: into its corner where it carries a number."""
    places = [place for place, span in spans.items() if span is None or span[0] <= 0 <= span[1]]
    if places:
        rows, columns = np.array(places).T
        across, down = (0.88, 0.12) if len(values) <= MOST_ANNOTATED else (0.5, 0.5)
        axes.scatter(
            columns + across, rows + down, s=6 if len(values) <= MOST_ANNOTATED else 1.6, color=NOISE, lw=0,
            gid="inside-noise",
        )  # fmt: skip


def _off_diagonal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    cells = values[~np.eye(len(values), dtype=bool)]
    return cells[np.isfinite(cells)]


def _mesh(axes: Axes, values: NDArray[np.float64]) -> QuadMesh:
    reach = min(1.0, float(np.abs(_off_diagonal(values)).max(initial=0.05)))
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=colormaps["RdBu"],
        norm=Normalize(-reach, reach),
        edgecolors=PAPER,
        linewidth=1.0 if len(values) <= MOST_ANNOTATED else 0.2,
        # Thousands of vector cells would make the SVG heavy.
        rasterized=len(values) > 24,
    )
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return mesh


def _mark_cells(axes: Axes, values: NDArray[np.float64]) -> None:
    for i in range(len(values)):
        axes.add_patch(Rectangle((i, i), 1, 1, facecolor=_DIAGONAL, edgecolor=PAPER, gid=f"diagonal-{i}"))
    for i, j in np.argwhere(np.isnan(values)):
        if i != j:
            axes.add_patch(
                Rectangle(
                    (j, i), 1, 1, facecolor=PAPER, edgecolor=_HATCH, hatch="////", gid=f"unidentified-{i}-{j}"
                )
            )


def _annotate(axes: Axes, values: NDArray[np.float64], mesh: QuadMesh, size: float, spans: _Spans) -> None:
    for (i, j), value in np.ndenumerate(values):
        if i == j:
            axes.text(j + 0.5, i + 0.5, "1", color=_DIAGONAL_TEXT, ha="center", va="center", fontsize=size)
        elif np.isfinite(value):
            red, green, blue, _ = mesh.to_rgba(np.array([value]))[0]
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = spell_in_figure(float(value))
            colour = "#ffffff" if dark else "#111111"
            shown = (i, j) in spans and len(values) <= MOST_SPANNED
            height = 0.38 if shown else 0.5
            axes.text(j + 0.5, i + height, text, color=colour, ha="center", va="center", fontsize=size)
            if shown:
                span = _span_text(spans[i, j])
                axes.text(j + 0.5, i + 0.7, span, color=colour, ha="center", va="center", fontsize=6)


def _span_text(span: tuple[float, float] | None) -> str:
    return "unbounded" if span is None else f"[{spell_in_figure(span[0])}, {spell_in_figure(span[1])}]"


def _name_axes(axes: Axes, tasks: list[str]) -> None:
    size, turn = label_size(len(tasks)), 45 if len(tasks) <= MOST_ANNOTATED else 90
    centres = np.arange(len(tasks)) + 0.5
    names = labels(tasks)
    anchor = "anchor" if turn == 45 else "default"
    align = "right" if turn == 45 else "center"
    axes.set_xticks(centres, names, rotation=turn, ha=align, rotation_mode=anchor, fontsize=size)
    axes.set_yticks(centres, names, fontsize=size)
    axes.set_xlabel("task helped, j")
    axes.set_ylabel("task trained in full, i")


def _colour_bar(figure: Figure, mesh: QuadMesh, values: NDArray[np.float64]) -> None:
    beyond = _off_diagonal(values)
    low, high = bool((beyond < -1).any()), bool((beyond > 1).any())
    extend = "both" if low and high else "min" if low else "max" if high else "neither"
    width = figure.get_figwidth()
    beside = figure.add_axes((1 + 0.18 / width, 0, 0.13 / width, 1))
    bar = figure.colorbar(mesh, cax=beside, extend=extend, ticks=MaxNLocator(4, steps=[1, 2, 5, 10]))
    bar.set_label("contribution $C_{ij}$", labelpad=8)
    bar.outline.set_edgecolor(GRID)
    bar.ax.tick_params(labelsize=8)


def _note(axes: Axes, text: str, width: int) -> None:
    if text:
        wrapped = textwrap.fill(text.replace("$", r"\$"), max(32, width))
        axes.annotate(
            wrapped,
            (0, 1),
            xytext=(0, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
