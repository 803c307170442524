"""Format `csv`: scores that the user has as a table, as they are (.csv, .tsv, .json, .jsonl or .xlsx).

With a column `run` it is a score table, `run,<task>,...`: the run's row, the task's column, and where the row
`transform` turns that, lower is better. Else `metric` is the column: with a column `id` a row per item,
without one the file's only row. A column `task` leaves the rows of the task.
"""

from pathlib import Path

from cotbal.collect.found import Found
from cotbal.collect.locate import find_files
from cotbal.collect.records import Record, by_id, images_of, read_records
from cotbal.collect.source import Source
from cotbal.estimate.score_csv import TRANSFORM

OPTIONS = {
    "id": "the column of the item's id, id by default",
    "image": "the column that names the image of every item; by default image, where it is filled",
}


def read(folder: Path, source: Source, run: str) -> Found:
    """Return the score or the items of a run that a table gives."""
    file = find_files(folder, source.name)[0]
    records = read_records(file)
    if "run" in records[0].fields:
        score = _only(_where(records, "run", run), f"run {run!r}").number(source.task)
        # The table's own word on a column; where it has none, the user's alone counts.
        turned = any(row.fields.get("run") == TRANSFORM and row.fields.get(source.task) for row in records)
        return Found((file,), score, higher_is_better=False if turned else None)
    if "task" in records[0].fields:
        records = _where(records, "task", source.task)
    id_column = source.options.get("id", "id")
    if id_column not in records[0].fields:
        return Found((file,), _only(records, f"one row, or a column {id_column!r}").number(source.metric))
    by_key = by_id(records, id_column)
    items = {key: record.number(source.metric) for key, record in by_key.items()}
    return Found((file,), items=items, images=images_of(by_key, "image", source.options.get("image")))


def _where(records: list[Record], column: str, value: str) -> list[Record]:
    chosen = [record for record in records if record.fields.get(column) == value]
    if not chosen:
        known = ", ".join(dict.fromkeys(str(record.fields.get(column)) for record in records))
        raise ValueError(f"{records[0].file}: no row with {column} {value!r}; there are {known}")
    return chosen


def _only(records: list[Record], what: str) -> Record:
    if len(records) != 1:
        raise ValueError(f"{records[0].file}: expected {what}, got {len(records)} rows")
    return records[0]
