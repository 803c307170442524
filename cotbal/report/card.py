"""The report as Markdown, to stand in a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.report import page_tables, seeds
from cotbal.report.comparison_tables import finals_tables, markdown
from cotbal.report.comparison_tables import plain as _plain
from cotbal.report.page import runs_line


def card(
    results: seeds.Results | None,
    runs: Mapping[str, Any] | None = None,
    finals: Mapping[str, Any] | None = None,
) -> str:
    """Return Markdown: what to know, the weights under every rule, the signals, settings and cost.

    Args:
        results: of an estimate; None as long as there is only the state of the runs.
        runs: as of `cotbal.project.account.account`.
        finals: as of `cotbal.compare.compare`.
    """
    blocks = ["# Task weights by CoTBal"]
    blocks += ["There are no weights yet."] if results is None else _of_results(results)
    if results is None and runs and runs.get("refused"):
        blocks.append("\n".join(f"- {_plain(reason)}" for reason in runs["refused"]))
    if finals:
        blocks += ["## Final models", "\n".join(f"- {_plain(line)}" for line in finals["statements"])]
        blocks += [markdown(table) for table in finals_tables(finals)]
    if runs:
        blocks += ["## Runs", runs_line(runs), markdown(page_tables.runs_table(runs))]
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
        markdown(page_tables.weights_table(results)),
        "## Contribution (means over the other tasks) and difficulty",
        markdown(page_tables.signals_table(results)),
    ]
    if note := seeds.imputed_note(results):
        blocks.append(_plain(note))
    blocks += ["## The gain in a task's own probe", markdown(page_tables.gains_table(results))]
    return [*blocks, *([_plain(note)] if (note := seeds.turned_note(results)) else [])]
