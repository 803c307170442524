"""The self-contained page: one HTML file with figures, tables and pictures inside and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cotbal.files import write_text_atomically
from cotbal.report import page_tables, seeds
from cotbal.report.embed import inline_svg, png_data_uri
from cotbal.report.figures import draw_figures
from cotbal.report.style import svg_text

DESCRIPTIONS = {
    "contribution": "Heat map of the contribution of each task to each other task",
    "difficulty": "Bar chart of the difficulty of each task",
    "radar": "Radar chart of test scores of CoTBal and equal weights, relative to single-task models",
    "weights": "Dot plot of the task weights under every rule",
    "improvement": "Dot plot of delta I and delta E of each method with the noise between seeds",
}


def write_page(
    results: seeds.Results, folder: Path, samples: Sequence[Mapping[str, Any]] | None = None
) -> Path:
    """Write `report.html` into `folder`, whole or not at all, and return its path.

    Args:
        results: the results dictionary, schema version 1.
        folder: made if it is missing.
        samples: records to show, each with "task", "question", "answer" and "image", a uint8 array (H, W, 3)
            or None.

    Raises:
        ValueError: `results` has another schema version or lacks a seed.
    """
    return write_text_atomically(folder / "report.html", render_page(results, samples))


def render_page(results: seeds.Results, samples: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the page as HTML; the same arguments give the same text."""
    figures = draw_figures(results)
    environment = Environment(
        loader=PackageLoader("cotbal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        results=results,
        seeds_note=seeds.seeds_note(results),
        noise_note=seeds.noise_note(results),
        unidentified_note=seeds.imputed_note(results),
        statements=_statements(results),
        verdicts=_verdicts(results),
        figures={
            name: inline_svg(svg_text(figure), name, DESCRIPTIONS[name]) for name, figure in figures.items()
        },
        tables=page_tables.all_tables(results),
        samples=[_sample(sample) for sample in samples or ()],
        cost=_cost(results["run"]),
        code=_code(results),
    )


def _statements(results: seeds.Results) -> list[str]:
    """Return the verdict on CoTBal and every statement that is not about another method."""
    ours = results["summary"]["against_EW"].get("CoTBal")
    others = _verdicts(results)
    lines = [*([ours["verdict"]] if ours else []), *results["statements"]]
    return [line for line in dict.fromkeys(lines) if line not in others]


def _verdicts(results: seeds.Results) -> list[str]:
    """Return the verdicts on the other methods."""
    verdicts = results["summary"]["against_EW"]
    return [entry["verdict"] for method, entry in verdicts.items() if method != "CoTBal"]


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    image = sample["image"]
    return {**sample, "image": None if image is None else png_data_uri(image)}


def _cost(run: Mapping[str, Any]) -> str:
    wall, cpu = _duration(run["wall_seconds"]), _duration(run["cpu_seconds"])
    return f"{wall} of wall time, {cpu} of CPU time, workers: {run['workers']}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _code(results: seeds.Results) -> str:
    """Return three lines that train with these weights; task ids count the names in the comment from 0."""
    estimated = [value.mean for value in seeds.weights(results, "cotbal").values()]
    weights = ", ".join(seeds.spell(weight, 4) for weight in [*estimated, *results["fixed"].values()])
    names = ", ".join(" ".join(name.split()) for name in (*results["tasks"], *results["fixed"]))
    call = (
        "cotbal.linear_gtw_cross_entropy(hidden, lm_head.weight, labels, task_ids, task_weights, shift=True)"
    )
    return f"import torch, cotbal\ntask_weights = torch.tensor([{weights}])  # {names}\nloss = {call}"
