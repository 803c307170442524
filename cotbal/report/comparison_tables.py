"""The tables of a comparison as text, for page and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotbal.report.page_tables import PageTable
from cotbal.report.seeds import Estimate, InInterval, spell, spell_estimate

Comparison = Mapping[str, Any]
MEASURES = {"delta_i": "ΔI %", "delta_e": "ΔE %"}


def value_in(row: Mapping[str, Any], key: str) -> Estimate:
    """Return a value of a method's row with its interval, such as "delta_i" or "delta_e_difference"."""
    ends = row.get(f"{key}_interval")
    return InInterval(row[key], *ends) if ends else Estimate(row[key], None)


def finals_tables(finals: Comparison) -> list[PageTable]:
    """Return the scores of the final models and, with a baseline, the improvement over it."""
    return [scores_table(finals), *([improvement_table(finals)] if finals["baseline"] else [])]


def scores_table(comparison: Comparison) -> PageTable:
    """Return the scores by method and test set with dI and dE, the best of each stressed (table 2)."""
    columns, methods = comparison["columns"], comparison["methods"]
    arrow = {"higher": "↑", "lower": "↓"}
    head = ["method", *(f"{_place(c)}\n{c['metric']} {arrow[c['better']]}" for c in columns)]
    rows = [[row["name"], *(_score(row, column["name"]) for column in columns)] for row in methods]
    ranked = [([row["scores"][c["name"]] for row in methods], c["better"]) for c in columns]
    if comparison["baseline"]:
        head += ["ΔI % ↑", "ΔE % ↓"]
        for cells, row in zip(rows, methods, strict=True):
            cells += [_measure(comparison, row, key) for key in MEASURES]
        ranked += [(_measured(comparison, "delta_i"), "higher"), (_measured(comparison, "delta_e"), "lower")]
    best = {(row, place) for place, (values, way) in enumerate(ranked, start=1) for row in _best(values, way)}
    return PageTable("scores", head, rows, best=frozenset(best))


def improvement_table(comparison: Comparison) -> PageTable:
    """Return dI and dE in percent, and their paired differences from the method that is compared with."""
    against = comparison["reference"]
    methods = [row for row in comparison["methods"] if row["name"] != comparison["baseline"]]
    head = ["method"]
    for sign in MEASURES.values():
        head += [sign, *([f"{sign.split()[0]} − {against}"] if against else [])]
    rows = []
    for row in methods:
        cells = [row["name"]]
        for key in MEASURES:
            cells.append(spell_estimate(value_in(row, key), 2))
            if against:
                difference = value_in(row, f"{key}_difference")
                cells.append("" if difference.mean is None else spell_estimate(difference, 2, sign=True))
        rows.append(cells)
    return PageTable("improvement", head, rows)


def tasks_table(comparison: Comparison) -> PageTable:
    """Return I of every task in percent (Eq. 12), by method."""
    tasks = list(dict.fromkeys(column["task"] for column in comparison["columns"]))
    rows = [
        [row["name"], *(spell(100 * row["improvement"][task], 2, sign=True) for task in tasks)]
        for row in comparison["methods"]
        if row["name"] != comparison["baseline"]
    ]
    return PageTable("by-task", ["method", *(f"{task} %" for task in tasks)], rows)


def weights_table(comparison: Comparison) -> PageTable | None:
    """Return the weights that each method trained under; None where no method's are known."""
    known = [row for row in comparison["methods"] if isinstance(row.get("weights"), Mapping)]
    if not known:
        return None
    tasks = list(known[0]["weights"])
    rows = [[row["name"], *(spell(row["weights"].get(task)) for task in tasks)] for row in known]
    return PageTable("weights", ["method", *tasks], rows)


def shares_table(content: Mapping[str, Any]) -> PageTable:
    """Return the scores by task and share of the data."""
    head = ["task", *(share_name(name, ratio) for name, ratio in content["shares"].items())]
    rows = [
        [f"{task} ({of_task['metric']})", *(spell(value, 4) for value in of_task["scores"])]
        for task, of_task in content["tasks"].items()
    ]
    return PageTable("shares", head, rows)


def share_name(name: str, ratio: float) -> str:
    """Return a share for a table's head: "mini (1/32)", "1/4", "all"."""
    return {"mini": f"mini ({_fraction(ratio)})", "full": "all"}.get(name, name)


def _fraction(ratio: float) -> str:
    return f"1/{1 / ratio:.0f}" if abs(1 / ratio - round(1 / ratio)) < 1e-9 else f"{ratio:g}"


def _place(column: Mapping[str, Any]) -> str:
    return f"{column['task']} {column['test']}".strip()


def _score(row: Mapping[str, Any], column: str) -> str:
    ends = (row["score_intervals"] or {}).get(column)
    value = row["scores"][column]
    # As the paper prints them: CIDEr below 10 with four decimals, percents with two.
    digits = 4 if abs(value) < 10 else 2
    return spell(value, digits) + (
        f"\n[{spell(ends[0], digits - 1)}, {spell(ends[1], digits - 1)}]" if ends else ""
    )


def _measure(comparison: Comparison, row: Mapping[str, Any], key: str) -> str:
    if row["name"] == comparison["baseline"]:
        return ""
    return spell_estimate(value_in(row, key), 2)


def _measured(comparison: Comparison, key: str) -> list[float | None]:
    return [None if row["name"] == comparison["baseline"] else row[key] for row in comparison["methods"]]


def _best(values: Sequence[float | None], better: str) -> list[int]:
    """Return the places of the best value; none where all are equal."""
    known = [value for value in values if value is not None]
    if len(set(known)) < 2:
        return []
    best = max(known) if better == "higher" else min(known)
    return [place for place, value in enumerate(values) if value == best]


def markdown(table: PageTable) -> str:
    """Return the table in Markdown, what it stresses in bold."""
    rule = ["---", *["---:"] * (len(table.head) - 1)]
    lines = [_row([plain(cell) for cell in table.head]), _row(rule)]
    for number, row in enumerate(table.rows):
        cells = [
            f"**{plain(c)}**" if (number, place) in table.best else plain(c) for place, c in enumerate(row)
        ]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Return the text on one line, with nothing in it that Markdown or HTML would take for its own."""
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
