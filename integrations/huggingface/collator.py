"""The task of each record in the batch, as integers beside whatever another collator makes of the record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cotbal.integrations.huggingface.row_order import check_order
from cotbal.tasks import TaskIndex, declared_fields, record_task, task_names

# PEFT's forward has a parameter `task_ids` of its own, which it drops without a word.
TASK_IDS = "cotbal_task_ids"
# A host integer, at least the batch's valid labels: with it nobody waits for a GPU to count them.
VALID_COUNT = "cotbal_valid_count"
OTHER_KEY = "TaskCollator(collator, tasks, field=...) reads the task from a key of another name"
# Under a new key: what is mapped in place stays a number.
_NAMES_OF_CLASSES = (
    "a ClassLabel column becomes its names by ds.map(lambda r: {'name': "
    "ds.features['task'].int2str(r['task'])}, remove_columns='task').rename_column('name', 'task')"
)


class TaskCollator:
    """Wraps a collator: its batch gets the records' task ids, int64 (B,), under `cotbal_task_ids`.

    A collator that flattens its records into one row gets one id per segment. Rows or segments are in the
    order of the records: one that sorts rows is refused where their tokens tell, and one that sorts segments
    would have their ids mixed up. Records of which none tells a task make a batch without ids, which is
    refused in training; what a trainer evaluates on has none.

    Args:
        collator: makes the batch, from records without the keys that tell their task.
        tasks: task names in the order of their ids.
        field: the key that holds the task where `task` is absent; several are looked up in their order.
        file_field: the key that holds the record's file.
        file_tasks: task by file, for records whose own keys tell none.
        count_valid: put the number of valid labels into the batch, which saves a GPU a synchronisation. False
            in a loop of one's own whose main process cuts batches up for the others, as accelerate does with
            an `IterableDataset` (`dispatch_batches`): they can hold tensors only. A trainer sees to it.

    Example:
        >>> from transformers import DataCollatorWithFlattening
        >>> collator = TaskCollator(DataCollatorWithFlattening(), ["VQAv2", "GQA"])
        >>> records = [{"input_ids": [5, 6], "task": "GQA"}, {"input_ids": [7, 8, 9], "task": "VQAv2"}]
        >>> collator(records)["cotbal_task_ids"]
        tensor([1, 0])
    """

    def __init__(
        self,
        collator: Callable[[list[Any]], Mapping[str, Any]],
        tasks: Iterable[str],
        *,
        field: str | Iterable[str] | None = None,
        file_field: str | None = None,
        file_tasks: Mapping[str, str] | None = None,
        count_valid: bool = True,
    ) -> None:
        if not callable(collator):
            raise TypeError(
                f"collator: expected a callable that makes a batch, got {type(collator).__name__}"
            )
        self.collator, self.index = collator, TaskIndex(task_names(tasks))
        self.fields, self.file_field, self.file_tasks = declared_fields(field), file_field, file_tasks
        self.count_valid = count_valid
        # A trainer's evaluation needs none, and may be on tasks that have no weight.
        self.makes_ids = True
        # Those of a record that tell its task.
        files = () if file_field is None else (file_field,)
        self.keys = tuple(dict.fromkeys(("task", *self.fields, *files)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task names in the order of their ids."""
        return self.index.names

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the wrapped collator's batch with the ids of the records.

        Raises:
            TypeError: records or a batch that are no mappings.
            ValueError: an unknown task, some records with a task and some without, or rows in another order.
        """
        for record in features:
            _check_mapping("records", record, "from its keys to their values")
        batch = self._batch(
            [{key: record[key] for key in record if key not in self.keys} for record in features]
        )
        if self.makes_ids and any(map(self.tells_task, features)):
            check_order(features, batch)
            told = _segments(features, batch)
            batch[TASK_IDS] = torch.tensor([self.task_id(record) for record in told], dtype=torch.int64)
            labels = batch.get("shift_labels", batch.get("labels"))
            if self.count_valid and isinstance(labels, Tensor):
                batch[VALID_COUNT] = int((labels != -100).sum())
        return batch

    def tells_task(self, record: Mapping[str, Any]) -> bool:
        """Whether one of the record's own keys is there to tell its task."""
        return any(record.get(key) is not None for key in self.keys)

    def _batch(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """What the wrapped collator makes of the records."""
        try:
            batch = self.collator(records)
        except (TypeError, ValueError) as error:
            text = [key for key in records[0] if isinstance(records[0][key], str)] if records else []
            # Transformers' own make tensors of every key; another one may have failed over anything.
            if not text or not type(self.collator).__module__.startswith("transformers."):
                raise
            raise ValueError(
                f"{error} -- the records hold text under {', '.join(text)}, of which "
                f"{type(self.collator).__name__} can make no tensor: remove those columns; {OTHER_KEY}"
            ) from error
        _check_mapping("collator", batch, "with the tensors of a batch")
        return dict(batch)

    def task_id(self, record: Mapping[str, Any]) -> int:
        """The id of a record's task.

        Raises:
            TypeError: it is no text.
            ValueError: it is not known, or none is told.
        """
        return self.index.id(self._task(record))

    def _task(self, record: Mapping[str, Any]) -> str:
        file = record.get(self.file_field) if self.file_field else None
        try:
            return record_task(record, field=self.fields, file=file, file_tasks=self.file_tasks)
        except TypeError as error:
            raise TypeError(f"{error}; {_NAMES_OF_CLASSES}") from error
        except ValueError as error:
            raise ValueError(f"{error}; {OTHER_KEY}") from error


def collator_tasks(collator: object) -> tuple[str, ...] | None:
    """The task names of a `TaskCollator`, in the order of their ids; None of another collator."""
    return collator.tasks if isinstance(collator, TaskCollator) else None


def _segments(records: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records that an id is needed for: one without tokens is no segment of a flattened row."""
    rows = batch.get("input_ids")
    is_flat = isinstance(rows, Tensor) and len(rows) == 1 < len(records)
    return [record for record in records if not is_flat or len(record.get("input_ids", ".")) > 0]


def _check_mapping(name: str, value: object, holds: str) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a mapping {holds}, got {type(value).__name__}; make a dict of it")
