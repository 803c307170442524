"""The tasks of all records before the first step: the batch of a record may come after days."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from cotbal.integrations.huggingface.collator import NO_TASKS, TaskCollator

_TRAINED = "give the task a weight, or take its records out"


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
    _check(collator, trainer.train_dataset, "train_dataset")
    if trainer.args.eval_strategy != "no":
        given = trainer.eval_dataset
        named = {f"[{name!r}]": given[name] for name in given} if isinstance(given, dict) else {"": given}
        for name, dataset in named.items():
            _check(collator, dataset, f"eval_dataset{name}", is_trained=False)


def _check(collator: TaskCollator, dataset: Any, called: str, *, is_trained: bool = True) -> None:
    records = dataset if isinstance(dataset, list | tuple) else _column_records(collator, dataset)
    wrong = _first_wrong(collator, records, is_trained)
    if wrong is not None:
        place, error = wrong
        remedy = _TRAINED if is_trained else NO_TASKS
        raise type(error)(f"{called}[{place}]: {error}; {remedy}") from error


def _first_wrong(
    collator: TaskCollator, records: Iterable[Any], is_trained: bool
) -> tuple[int, Exception] | None:
    """The place of a record whose task cannot be told, and why."""
    first: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            return None
        first.setdefault(repr([record.get(key) for key in collator.keys]), (place, record))
    told = [each for each in first.values() if any(each[1].get(key) is not None for key in collator.keys)]
    # Records of which none tells a task are no mistake of theirs, and enough to evaluate on.
    for place, record in first.values() if is_trained and told else told:
        try:
            collator.task_id(record)
        except (TypeError, ValueError) as error:
            return place, error
    return None


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
