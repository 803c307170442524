"""Results as tables for a terminal of any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cotbal.report import seeds
from cotbal.report.seeds import shortened, spell, spell_difference, spell_estimate

MOST_ROWS_OF_C = 16
_NAME_WIDTH, _PADDING = 24, 2

Columns = Mapping[str, Sequence[str]]  # header -> cells


def print_results(results: seeds.Results, console: Console) -> None:
    """Print scores, C, D, weights, test scores, dI and dE and the statements of `results`.

    Tables wider than the console are continued below, with the row names repeated. Several seeds: the mean;
    dI, dE and their differences from EW also with standard errors.

    Raises:
        ValueError: `results` has another schema version or lacks a seed.
    """
    seeds.check_results(results)
    _print_validation(results, console)
    _print_signals(results, console)
    _print_weights(results, console)
    _print_test(results, console)
    _print_improvement(results, console)
    _print_statements(results, console)


def print_columns(
    title: str,
    names: Sequence[str],
    columns: Columns,
    corner: str = "task",
    *,
    console: Console | None = None,
) -> None:
    """Print row names and right-aligned columns, in as many blocks as the width needs."""
    console = console or Console()
    names = shortened(names)
    width = min(max(map(cell_len, [corner, *names])), max(_NAME_WIDTH, console.width - _NAME_WIDTH))
    room = console.width - width - _PADDING
    for number, block in enumerate(_blocks(columns, room)):
        console.print(Text(title if number == 0 else f"{title} (continued)", style="bold"))
        table = Table(box=None)
        table.add_column(corner, max_width=width, overflow="ellipsis", no_wrap=True)
        for header in block:
            table.add_column(Text(header), justify="right", no_wrap=True)
        for row, name in enumerate(names):
            table.add_row(Text(name), *(Text(columns[header][row]) for header in block))
        console.print(table)
        console.print()


def _blocks(columns: Columns, room: int) -> list[list[str]]:
    """Return the headers in groups whose columns fit into `room` characters, at least one in each."""
    groups: list[list[str]] = [[]]
    left = room
    for header, cells in columns.items():
        lines = [line for cell in (header, *cells) for line in cell.split("\n")]
        need = max(map(cell_len, lines)) + _PADDING
        if groups[-1] and need > left:
            groups.append([])
            left = room
        groups[-1].append(header)
        left -= need
    return groups


def _print_validation(results: seeds.Results, console: Console) -> None:
    tasks = results["tasks"]
    table = seeds.validation(results)
    columns = {
        "metric": [results["metrics"][task] for task in tasks],
        "all mini": [spell(value.mean) for value in table["mini"]],
        "own in full": [spell(table[task][place].mean) for place, task in enumerate(tasks)],
    }
    title = f"Validation scores ({seeds.seeds_note(results)})"
    print_columns(title, tasks, columns, console=console)


def _print_signals(results: seeds.Results, console: Console) -> None:
    tasks = results["tasks"]
    numbered = [f"{place} {task}" for place, task in enumerate(tasks, start=1)]
    means = {
        "one2all": [spell(value.mean, 2) for value in seeds.vector(results, "one2all")],
        "all2one": [spell(value.mean, 2) for value in seeds.vector(results, "all2one")],
        "difficulty D": [spell(value.mean, 2) for value in seeds.vector(results, "difficulty")],
    }
    if len(tasks) <= MOST_ROWS_OF_C:
        matrix = seeds.contribution(results)
        cells = {str(j + 1): [spell(row[j].mean, 2) for row in matrix] for j in range(len(tasks))}
        title = "Contribution C: row trained in full, column (by number) helped"
        print_columns(title, numbered, cells, console=console)
    print_columns(
        "Contribution to and from the others (means), and difficulty", numbered, means, console=console
    )
    if note := seeds.imputed_note(results):
        console.print(Text(note))
        console.print()


def _print_weights(results: seeds.Results, console: Console) -> None:
    columns = {
        seeds.RULES[rule]: [spell(value.mean) for value in seeds.weights(results, rule).values()]
        for rule in seeds.rules(results)
    }
    print_columns("Weights by rule", results["tasks"], columns, console=console)
    for task, weight in results["fixed"].items():
        console.print(Text(f"{task}: weight fixed at {spell(weight)}"))
    if results["fixed"]:
        console.print()


def _print_test(results: seeds.Results, console: Console) -> None:
    rows = seeds.test_rows(results)
    columns = {"metric": [row.metric for row in rows]}
    for method in seeds.methods(results):
        columns[method.replace(" (", "\n(")] = [spell(row.by_method[method].mean) for row in rows]
    print_columns("Test scores by method", [row.task for row in rows], columns, console=console)


def _print_improvement(results: seeds.Results, console: Console) -> None:
    methods = [method for method in seeds.methods(results) if method != "STL"]
    columns = {}
    for key, label in (("delta_i", "dI"), ("delta_e", "dE")):
        columns[f"{label} %"] = [spell_estimate(seeds.summary(results, key, method), 2) for method in methods]
        columns[f"{label} - EW"] = [spell_difference(results, key, method) for method in methods]
    print_columns(
        "Improvement over the single-task models", methods, columns, corner="method", console=console
    )
    console.print(Text(f"dI: higher is better, dE: lower is better. {seeds.noise_note(results)}"))
    console.print()


def _print_statements(results: seeds.Results, console: Console) -> None:
    for statement in results["statements"]:
        console.print(Text(f"- {statement}"))
