"""The tasks of all records before the first step: the batch of a record may come after days."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from cotbal.integrations.huggingface.collator import TaskCollator


def check_tasks(trainer: Any) -> None:
    """Checks the tasks of the data where no record has to be read for it: a list, a table of `datasets`.

    Those of other data, or of a collator that changes the records, are told with their batch.

    Raises:
        TypeError: a task that is no text.
        ValueError: a task that is not known, or none beside others; the record's place is told.
    """
    collator = trainer.data_collator
    if not isinstance(collator, TaskCollator) or type(collator).__call__ is not TaskCollator.__call__:
        return
    dataset = trainer.train_dataset
    records = dataset if isinstance(dataset, list | tuple) else _column_records(collator, dataset)
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            return
        first.setdefault(repr([record.get(key) for key in collator.keys]), (place, record))
    # Records of which none tells a task are their batches' matter: another part may make the ids.
    if any(collator.tells_task(record) for _, record in first.values()):
        for place, record in first.values():
            _check(collator, record, f"train_dataset[{place}]")


def _check(collator: TaskCollator, record: Mapping[str, Any], called: str) -> None:
    try:
        collator.task_id(record)
    except (TypeError, ValueError) as error:
        remedy = "; give the task a weight, or take its records out" if collator.tells_task(record) else ""
        raise type(error)(f"{called}: {error}{remedy}") from error


def _column_records(collator: TaskCollator, dataset: Any) -> Iterable[dict[str, Any]]:
    """The records of a table of `datasets` with what tells their tasks alone; none where it is not known."""
    table = getattr(sys.modules.get("datasets"), "Dataset", ())
    # A transform makes other records of them.
    if not isinstance(dataset, table) or dataset.format["type"] == "custom":
        return []
    seen = dataset.column_names if dataset.format["output_all_columns"] else dataset.format["columns"]
    names = [name for name in dict.fromkeys([*collator.keys, "id"]) if name in seen]
    columns = [dataset.data.column(name).to_pylist() for name in names]
    # Of a selection, or in another order; to read them by their places would take ten times as long.
    if (order := getattr(dataset, "_indices", None)) is not None:
        places = order.column(0).to_pylist()
        columns = [[column[place] for place in places] for column in columns]
    if any(len(column) != len(dataset) for column in columns):
        return []
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
