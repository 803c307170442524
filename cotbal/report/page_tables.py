"""The tables of the page as text, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cotbal.report import seeds
from cotbal.report.noise import lost_columns, order_of_weights, without_value
from cotbal.report.seeds import spell, spell_difference, spell_estimate

MOST_COLUMNS_OF_C = 16


@dataclass(frozen=True)
class PageTable:
    """A table: its id in the page, its headers (the first names the rows), rows of text, what to stress."""

    name: str
    head: list[str]
    rows: list[list[str]]
    strong: int | None = None  # the column to stress
    best: frozenset[tuple[int, int]] = frozenset()  # likewise single cells, by row and column


def all_tables(results: seeds.Results) -> dict[str, PageTable]:
    """Return every table of the page by name; N x N tables only where they can be read."""
    makers = [weights_table, signals_table]
    if seeds.methods(results):
        makers += [test_table, improvement_table]
    if results["kind"] == "estimate":
        makers += [gains_table, order_table]
    if len(results["tasks"]) <= MOST_COLUMNS_OF_C:
        makers += [contribution_table, validation_table]
    return {table.name: table for table in (make(results) for make in makers)}


def weights_table(results: seeds.Results) -> PageTable:
    """Return the weights of the weighted tasks, then of the fixed ones, by rule, without the equal rule."""
    rules = [rule for rule in seeds.rules(results) if rule != "equal"]
    columns = {rule: seeds.weights(results, rule) for rule in rules}
    rows = [[task, *(_weight(rule, columns[rule][task]) for rule in rules)] for task in results["tasks"]]
    rows += [[f"{task} (fixed)", *[spell(weight)] * len(rules)] for task, weight in results["fixed"].items()]
    chosen = results.get("rule", "cotbal")
    strong = rules.index(chosen) + 1 if chosen in rules else None
    heads = ["task", *(seeds.RULES[rule] for rule in rules)]
    if spread := results.get("seed_sd"):
        heads.append(f"sd over seeds, {seeds.RULES[chosen]}")
        rows = [
            [*row, spell(spread[name])]
            for row, name in zip(rows, (*results["tasks"], *results["fixed"]), strict=True)
        ]
    return PageTable("weights", heads, rows, strong)


def _weight(rule: str, value: seeds.Estimate) -> str:
    # Standard errors between seeds under one rule alone, intervals under all.
    return spell_estimate(value) if rule == "cotbal" or value.interval else spell(value.mean)


def signals_table(results: seeds.Results) -> PageTable:
    """Return the means of C over the others (Eq. 4, 6) and D (Eq. 9)."""
    columns = [seeds.vector(results, key) for key in ("one2all", "all2one", "difficulty")]
    rows = [
        [task, *(spell_estimate(column[place]) for column in columns)]
        for place, task in enumerate(results["tasks"])
    ]
    return PageTable("signals", ["task", "gives to the others", "gets from the others", "difficulty D"], rows)


def contribution_table(results: seeds.Results) -> PageTable:
    """Return C (Eq. 3)."""
    cells = seeds.contribution(results)
    rows = [
        [task, *(_cell(results, cell, place == j) for j, cell in enumerate(row))]
        for place, (task, row) in enumerate(zip(results["tasks"], cells, strict=True))
    ]
    return PageTable("contribution", ["trained in full", *results["tasks"]], rows)


def _cell(results: seeds.Results, cell: seeds.Estimate, own: bool) -> str:
    if own or cell.mean is None or not seeds.intervals(results):
        return spell(cell.mean)
    return spell_estimate(cell) if cell.interval else f"{spell(cell.mean)}\nunbounded"


def validation_table(results: seeds.Results) -> PageTable:
    """Return the validation scores that C and D were computed from."""
    rows = [
        [name, *(spell(value.mean) for value in values)] for name, values in seeds.validation(results).items()
    ]
    rows[0][0] = "none (mini run)"
    heads = [f"{task} ({results['metrics'][task]})" for task in results["tasks"]]
    return PageTable("validation", ["trained in full", *heads], rows)


def test_table(results: seeds.Results) -> PageTable:
    """Return the test scores by method, one row for each metric of each task."""
    methods = seeds.methods(results)
    rows = [
        [f"{row.task} ({row.metric})", *(spell_estimate(row.by_method[method]) for method in methods)]
        for row in seeds.test_rows(results)
    ]
    return PageTable("test", ["task", *methods], rows)


def improvement_table(results: seeds.Results) -> PageTable:
    """Return dI and dE in percent, and their paired differences from EW."""
    methods = [method for method in seeds.methods(results) if method != "STL"]
    rows = [
        [method, *_two(results, "delta_i", method), *_two(results, "delta_e", method)] for method in methods
    ]
    return PageTable("improvement", ["method", "ΔI %", "ΔI − EW", "ΔE %", "ΔE − EW"], rows)


def _two(results: seeds.Results, key: str, method: str) -> tuple[str, str]:
    return spell_estimate(seeds.summary(results, key, method), 2), spell_difference(results, key, method)


def gains_table(results: seeds.Results) -> PageTable:
    """Return each task's gain in its own probe, the denominator of C, and whether it is noise."""
    (entry,) = results["by_seed"].values()
    scores, known = entry["scores"], bool(seeds.intervals(results))
    verdicts = dict.fromkeys(lost_columns(results), "no") | dict.fromkeys(
        without_value(results), seeds.ABSENT
    )
    rows = []
    for task, gain in zip(results["tasks"], entry["gains"], strict=True):
        usable = verdicts.get(task, "yes" if known else "above 0")
        # The gain is of turned scores where lower is better, the other two are as measured.
        cells = [spell(value, 4) for value in (scores["mini"][task], scores["probes"][task][task], gain)]
        rows.append([f"{task} ({results['metrics'][task]})", *cells, usable])
    heads = ["task", "mini run", seeds.probe_data(results), "difference", "beyond its noise"]
    return PageTable("gains", heads, rows)


def order_table(results: seeds.Results) -> PageTable:
    """Return how sure the order of the weights is, neighbour by neighbour; no rows without intervals."""
    found = order_of_weights(results, results["rule"])
    rows = [[first, second, f"{sure:.2f}"] for first, second, sure in found]
    return PageTable("order", ["the larger weight", "than that of", "probability"], rows)


def runs_table(runs: Mapping[str, Any]) -> PageTable:
    """Return one row per training with its state, its time, and how many of its evaluations are finished."""
    rows = [
        [
            run["name"],
            run["state"],
            "-" if run["samples"] is None else str(run["samples"]),
            _time(run["seconds"]),
            f"{run['evaluated']} of {run['evaluations']}",
            _time(run["evaluation_seconds"] if run["evaluated"] else None),
        ]
        for run in runs["trainings"]
    ]
    heads = ["training", "state", "samples", "time", "evaluations", "their time"]
    return PageTable("runs", heads, rows)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.1f} s"
