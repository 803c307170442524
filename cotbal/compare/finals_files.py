"""Final scores on disk: finals.json of `cotbal train`, or a CSV with a row per model.

The CSV is a score table whose rows are models: header `run,<task>,<task>,...`, a task with several test sets
as `<task>/<set>`; an optional row `transform` says in which columns lower is better, as `reciprocal` or
`complement: bound`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotbal.compare.finals import Column, Finals, Model
from cotbal.estimate.items_json import read_items
from cotbal.estimate.score_csv import TRANSFORM, numbers, table_lines
from cotbal.estimate.transforms import checked_transforms
from cotbal.files import write_text_atomically
from cotbal.tasks import task_names, unknown_task

SCHEMA_VERSION = 1
KIND = "finals"


def write_finals(path: str | Path, finals: Finals) -> Path:
    """Return `path` after writing the models there; `read_finals` reads the same back.

    Raises:
        OSError: the disk cannot take the file.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "columns": [column._asdict() for column in finals.columns],
        "methods": {
            method: {
                str(seed): {**model.details, "scores": dict(model.scores), "items": _plain(model.items)}
                for seed, model in models.items()
            }
            for method, models in finals.models.items()
        },
        "clusters": _plain(finals.clusters),
        "sha256": dict(finals.sha256),
    }
    return write_text_atomically(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def read_finals(path: str | Path, items: str | Path | None = None) -> Finals:
    """Return the models of a finals.json or a CSV.

    Args:
        path: the file, `.json` or `.csv`.
        items: with a CSV, the scores by item as JSON: `{"schema_version": 1, "items": {row: {column: []}}}`.

    Raises:
        OSError: a file cannot be read.
        ValueError: it holds something else.
    """
    if Path(path).suffix.lower() == ".csv":
        return _read_csv(path, items)
    if items is not None:
        raise ValueError(f"items: {path} holds its own; they belong to a CSV")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise ValueError("expected what `cotbal train` wrote, finals.json, or a CSV with a row per model")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version: expected {SCHEMA_VERSION}, got {content.get('schema_version')!r}"
            )
        columns = tuple(Column(**column) for column in content["columns"])
        models = {
            method: {int(seed): _model(dict(model)) for seed, model in by_seed.items()}
            for method, by_seed in content["methods"].items()
        }
        return Finals(columns, models, content.get("clusters") or {}, content.get("sha256") or {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _model(content: dict[str, Any]) -> Model:
    return Model(content.pop("scores"), content.pop("items"), content)


def _plain(lists: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: list(values) for name, values in lists.items()}


def _read_csv(path: str | Path, items: str | Path | None) -> Finals:
    try:
        header, *rows = table_lines(path)
        if not rows:
            raise ValueError("expected a row per model below the header, got none")
        names = task_names(header[1:], "header")
        cells: dict[str, list[str]] = {}
        for row, *values in rows:
            if row in cells or len(values) != len(names):
                raise ValueError(f"row {row!r}: expected it once, with {len(names)} scores")
            cells[row] = values
        stated = zip(names, cells.pop(TRANSFORM, []), strict=False)
        lower = checked_transforms({name: how for name, how in stated if how}, names)
        found = None if items is None else read_items(items)
        if found is not None and found.strata:
            raise ValueError(
                f"items: expected no strata, as each column is one test set, got those of "
                f"{', '.join(found.strata)}; give the sets of a task a column each, named TASK/SET"
            )
        models = {
            row: {0: _of_row(row, names, values, {} if found is None else found.items)}
            for row, values in cells.items()
        }
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    columns = []
    for name in names:
        task, _, test = name.partition("/")
        columns.append(Column(task, test, better="lower" if name in lower else "higher"))
    order = list(dict.fromkeys(column.task for column in columns))
    together = sorted(columns, key=lambda column: order.index(column.task))
    return Finals(tuple(together), models, {} if found is None else found.clusters)


def _of_row(
    row: str, names: Sequence[str], values: Sequence[str], items: Mapping[str, Mapping[str, list[float]]]
) -> Model:
    for name in items.get(row, {}):
        if name not in names:
            raise ValueError(f"items[{row!r}]: no such column {unknown_task(name, names)}")
    scores = dict(zip(names, numbers(values, names, row), strict=True))
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(
                f"row {row!r}, task {name!r}: expected a finite number, got {score}; leave the row or the "
                "column out"
            )
    return Model(scores, items.get(row, {}))
