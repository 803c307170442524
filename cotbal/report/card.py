"""The report as Markdown, to stand in a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotbal.report import page_tables, seeds
from cotbal.report.page import runs_line
from cotbal.report.page_tables import PageTable


def card(results: seeds.Results | None, runs: Mapping[str, Any] | None = None) -> str:
    """Return Markdown: what to know, the weights under every rule, the signals, settings and cost.

    Args:
        results: of an estimate; None as long as there is only the state of the runs.
        runs: as of `cotbal.project.account.account`.
    """
    blocks = ["# Task weights by CoTBal"]
    blocks += ["There are no weights yet."] if results is None else _of_results(results)
    if runs:
        blocks += ["## Runs", runs_line(runs), _table(page_tables.runs_table(runs))]
        blocks += [
            f"- {_plain(run['name'])}: {_plain(run['reason'])}" for run in runs["trainings"] if run["reason"]
        ]
    return "\n\n".join(blocks) + "\n"


def _of_results(results: seeds.Results) -> list[str]:
    chosen = f"Rule {results['rule']}, T = {results['temperature']}, α = {results['alpha']}"
    found = seeds.intervals(results)
    brackets = f" Square brackets hold {100 * found['level']:g} % intervals." if found else ""
    blocks = [
        f"{chosen}; {len(results['tasks'])} tasks; {_plain(seeds.seeds_note(results))}.{brackets}",
        "\n".join(f"- {_plain(line)}" for line in results["statements"]),
        "## Weights by rule",
        _table(page_tables.weights_table(results)),
        "## Contribution (means over the other tasks) and difficulty",
        _table(page_tables.signals_table(results)),
    ]
    if note := seeds.imputed_note(results):
        blocks.append(_plain(note))
    return [*blocks, "## The gain in a task's own probe", _table(page_tables.gains_table(results))]


def _table(table: PageTable) -> str:
    rule = ["---", *["---:"] * (len(table.head) - 1)]
    return "\n".join(map(_row, [table.head, rule, *table.rows]))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would take for its own."""
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
