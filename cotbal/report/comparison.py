"""The page, the card and the figures of a comparison of final models, or of scores by share of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotbal.estimate.few_seeds import few_seeds
from cotbal.files import write_bytes_atomically, write_json, write_text_atomically
from cotbal.report import comparison_tables as tables
from cotbal.report.comparison_charts import draw_comparison
from cotbal.report.comparison_tables import Comparison, markdown, plain
from cotbal.report.embed import inline_svg
from cotbal.report.page_tables import PageTable
from cotbal.report.render import render
from cotbal.report.style import paper_style, png_bytes, svg_text

READINGS = {
    "improvement": (
        "One row per method: the mean improvement over the baseline, and the mean loss against it, where a "
        "task that gained counts as 0; the bar is the interval. Before preferring a method, read its paired "
        "difference in the table."
    ),
    "radar": (
        "Each axis is 1 + I of a task (Eq. 12), the dashed ring at 1 being the baseline: the mean over its "
        "test sets of score / baseline, or of 2 − that where lower is better. Further out is better. The "
        "centre is the lowest tick, not 0."
    ),
    "shares": (
        "A line per task: how much of its score on all its data it reaches with a share of it, beside the "
        "mini subsets of the others. The later a line rises, the harder the task; at the mini subset it is "
        "1 − D. Bars are intervals."
    ),
}


@dataclass(frozen=True)
class Section:
    """A part of the page: figures by name, a table, notes below them."""

    name: str
    heading: str
    table: PageTable | None
    figures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write_comparison(content: Comparison, folder: Path, name: str) -> dict[str, Path]:
    """Write NAME.html, NAME.json, NAME.md and NAME-<figure>.png and .svg; return their paths by file name.

    Args:
        content: of `cotbal.compare.compare` or `shares_content`.
        folder: made if it is missing.
        name: what the files begin with.
    """
    with paper_style():
        figures = {
            key: (png_bytes(figure), svg_text(figure)) for key, figure in draw_comparison(content).items()
        }
    page = _render(content, {key: svg for key, (_, svg) in figures.items()})
    written = {
        "html": write_text_atomically(folder / f"{name}.html", page),
        "md": write_text_atomically(folder / f"{name}.md", comparison_card(content)),
        "json": write_json(folder / f"{name}.json", content),
    }
    for of_figure, (png, svg) in figures.items():
        for suffix, saved in (("png", png), ("svg", svg.encode())):
            path = folder / f"{name}-{of_figure}.{suffix}"
            written[f"{of_figure}.{suffix}"] = write_bytes_atomically(path, saved)
    return written


def render_comparison(content: Comparison) -> str:
    """Return the page as HTML; the same content gives the same text."""
    with paper_style():
        return _render(content, {key: svg_text(figure) for key, figure in draw_comparison(content).items()})


def _render(content: Comparison, svgs: Mapping[str, str]) -> str:
    figures = {
        name: {
            "name": name,
            "reading": READINGS[name],
            "svg": inline_svg(svg, name, READINGS[name]),
        }
        for name, svg in svgs.items()
    }
    sections = [
        {**vars(section), "figures": [figures[name] for name in section.figures if name in figures]}
        for section in _sections(content)
    ]
    return render(
        "comparison.html",
        heading=heading(content),
        lead=lead(content),
        statements=_statements(content),
        sections=sections,
    )


def comparison_card(content: Comparison) -> str:
    """Return the same as Markdown, without the figures."""
    blocks = [f"# {plain(heading(content))}", plain(lead(content))]
    blocks.append("\n".join(f"- {plain(line)}" for line in _statements(content)))
    for section in _sections(content):
        if section.table is not None:
            blocks += [f"## {plain(section.heading)}", markdown(section.table)]
            blocks += [plain(note) for note in section.notes]
    return "\n\n".join(blocks) + "\n"


def heading(content: Comparison) -> str:
    """Return the title of the page."""
    if content["kind"] == "shares":
        return "Score against share of the data"
    return f"Final models side by side{': ' + content['title'] if content['title'] else ''}"


def lead(content: Comparison) -> str:
    """Return what the page is of, in a sentence or two."""
    if content["kind"] == "shares":
        seeds = f", means of {content['seeds']} seeds" if content["seeds"] > 1 else ""
        return (
            f"Validation scores of {len(content['tasks'])} tasks, each trained on a growing share of its own "
            f"data beside the mini subsets of the others{seeds}."
        )
    tasks = dict.fromkeys(column["task"] for column in content["columns"])
    seeds = content["seeds"]
    # A CSV does not say which.
    of_seeds = "one seed" if len(seeds) == 1 else f"means of the seeds {', '.join(map(str, seeds))}"
    brackets = f" Square brackets hold {100 * content['level']:g} % intervals." if content["level"] else ""
    return (
        f"{len(content['methods'])} methods on {len(tasks)} tasks ({of_seeds}); bold is the best.{brackets}"
    )


def _statements(content: Comparison) -> list[str]:
    if content["kind"] == "shares":
        missing = content["missing"]
        return [
            "A larger share takes more optimizer steps too: a part of what it gains can be theirs.",
            *few_seeds(content["seeds"]),
            *([f"Not finished, and so left out: {', '.join(missing)}."] if missing else []),
        ]
    return list(content["statements"])


def _sections(content: Mapping[str, Any]) -> list[Section]:
    if content["kind"] == "shares":
        return [Section("shares", "Scores", tables.shares_table(content), ["shares"])]
    sections = [Section("scores", "Scores", tables.scores_table(content))]
    if content["baseline"]:
        base = content["baseline"]
        notes = [
            f"I of a task is the relative change of its scores against {base} (Eq. 12), ΔI the mean over the "
            "tasks, ΔE that of the losses alone (Eq. 13, 14)."
        ]
        table = tables.improvement_table(content)
        sections.append(
            Section("improvement", f"Improvement over {base}", table, ["improvement", "radar"], notes)
        )
        sections.append(Section("by-task", "Improvement by task", tables.tasks_table(content)))
    weights = tables.weights_table(content)
    if weights is not None:
        sections.append(Section("weights", "Weights", weights, notes=_dynamic(content)))
    return sections


def _dynamic(content: Mapping[str, Any]) -> list[str]:
    names = [row["name"] for row in content["methods"] if isinstance(row.get("weights"), str)]
    return [f"Weights that change in every step: {', '.join(names)}."] if names else []
