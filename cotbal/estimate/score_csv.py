"""The score table as a CSV file.

Header `run,<task>,<task>,...`; a row `mini`, one row per task named after the task of its probe run; optional
rows `single_mini`, `single_full` and `transform` (per task empty, `reciprocal` or `complement: bound`). A
row `equal` is that of the equally weighted model, whose scores the difficulty takes instead of the probes';
beside it the tasks' rows may be missing, where there were no probes.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cotbal.files import write_text_atomically
from cotbal.tasks import RESERVED, task_names, unknown_task

MINI, SINGLE_MINI, SINGLE_FULL, TRANSFORM, EQUAL = RESERVED
# Scores of one task so far apart are rare, and a factor of 100 is common.
SCALE_RATIO = 20
LONGEST_CELL = 1 << 17


def read_score_csv(path: str | Path) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Return the task names and the cells of each row, checked for their number and names.

    Raises:
        OSError: the file cannot be read.
        ValueError: a bad header, an unknown, repeated or missing row, a row of another length.
    """
    lines = table_lines(path)
    tasks = task_names(lines[0][1:], "header")
    rows: dict[str, list[str]] = {}
    for name, *cells in lines[1:]:
        if name not in (*tasks, *RESERVED):
            raise ValueError(f"unknown row {unknown_task(name, (*tasks, *RESERVED))}")
        if name in rows:
            raise ValueError(f"row {name!r} stands twice; keep one")
        if len(cells) != len(tasks):
            raise ValueError(f"row {name!r}: expected {len(tasks)} cells, one per task, got {len(cells)}")
        rows[name] = cells
    probes = EQUAL not in rows or any(task in rows for task in tasks)
    if missing := [name for name in (MINI, *(tasks if probes else ())) if name not in rows]:
        raise ValueError(
            f"missing rows: {', '.join(missing)}; one row 'mini' and one per task are needed; a task of "
            "fixed weight has neither row nor column"
        )
    return tasks, rows


def table_lines(path: str | Path) -> list[list[str]]:
    """Return the cells of header and rows, empty lines left out; the header begins with `run`.

    Raises:
        OSError: the file cannot be read.
        ValueError: text that is not UTF-8, another header, or one whose last column has no name.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            # The process has one limit; what reads answers raises it.
            csv.field_size_limit(LONGEST_CELL)
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream)]
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"expected text in UTF-8, got the byte 0x{byte:02x}; save it as CSV in UTF-8"
        ) from None
    lines = [line for line in lines if any(line)]
    # A spreadsheet begins a line with a capital.
    if not lines or lines[0][0].lower() != "run":
        got = repr(",".join(lines[0])) if lines else "nothing"
        if lines and re.match("run[;\t]", lines[0][0], re.IGNORECASE):
            got += "; separate the cells by commas, and write numbers with a point"
        if lines and lines[0][0].startswith("{"):
            got = "JSON; the table comes first, and --items takes its items"
        raise ValueError(f"expected the header 'run,<task>,<task>,...', got {got[:160]}")
    if not lines[0][-1]:
        raise ValueError(
            f"expected a name in each column of the header, got none in the last of {len(lines[0])}; remove "
            "the comma at the end of each line, which a spreadsheet's empty column leaves"
        )
    return lines


def numbers(cells: Sequence[str], tasks: Sequence[str], row: str) -> list[float]:
    """Return the cells of a row as numbers; ValueError names the row and task of one that is none."""
    values = []
    for cell, task in zip(cells, tasks, strict=True):
        try:
            # Python reads 1_0 as 10.
            values.append(float(cell if "_" not in cell else ""))
        except ValueError:
            got = repr(cell) if cell else "an empty cell"
            raise ValueError(
                f"row {row!r}, task {task!r}: expected a number, got {got}{_advice(cell)}"
            ) from None
    return values


def _advice(cell: str) -> str:
    if cell.endswith("%"):
        return "; leave the sign out, in one scale for the whole column"
    return "; write a point for the comma" if re.fullmatch(r"-?\d+,\d+", cell) else ""


def two_scales(tasks: Sequence[str], rows: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence on each column that may hold shares and percentages, which no number by itself can tell."""
    found = []
    for place, task in enumerate(tasks):
        column = {name: values[place] for name, values in rows.items()}
        low, high = min(column, key=lambda name: column[name]), max(column, key=lambda name: column[name])
        if 0 < column[low] <= 1 < column[high] and column[high] >= SCALE_RATIO * column[low]:
            found.append(
                f"task {task!r}: {column[low]:g} in row {low!r} and {column[high]:g} in row {high!r}; if one "
                "is a share and the other a percentage, write the column in one scale"
            )
    return found


def write_score_csv(path: str | Path, tasks: Sequence[str], rows: Mapping[str, Sequence[object]]) -> Path:
    """Return `path` after writing header and rows there, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *tasks])
    writer.writerows([name, *cells] for name, cells in rows.items())
    return write_text_atomically(path, text.getvalue())
