"""Draws every figure of a results dictionary and writes it as PNG and SVG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from cotbal.files import write_bytes_atomically
from cotbal.report import seeds
from cotbal.report.charts import difficulty_figure, improvement_figure, rules_figure, weights_figure
from cotbal.report.heatmap import contribution_figure
from cotbal.report.radar import radar_figure, reach_figure
from cotbal.report.style import paper_style, png_bytes, svg_text


def draw_figures(results: seeds.Results) -> dict[str, Figure]:
    """Return the figures by name: contribution, difficulty, radar, weights; improvement for several seeds.

    Where nothing was tested the radar is of the mini run; where there are intervals each rule has a panel.
    """
    seeds.check_results(results)
    draw = {
        "contribution": contribution_figure,
        "difficulty": difficulty_figure,
        "radar": radar_figure if seeds.methods(results) else reach_figure,
        "weights": rules_figure if seeds.intervals(results) else weights_figure,
    }
    if len(results["seeds"]) > 1:
        draw["improvement"] = improvement_figure
    with paper_style():
        return {name: function(results) for name, function in draw.items()}


def write_figures(results: seeds.Results, folder: Path) -> dict[str, Path]:
    """Write each figure as `<name>.png` (200 dpi) and `<name>.svg`; the same results give the same bytes.

    Returns the path of each file by its file name.

    Raises:
        ValueError: `results` has another schema version or lacks a seed.
    """
    written = {}
    for name, figure in draw_figures(results).items():
        for suffix, content in (("png", png_bytes(figure)), ("svg", svg_text(figure).encode())):
            path = folder / f"{name}.{suffix}"
            written[path.name] = write_bytes_atomically(path, content)
    return written
