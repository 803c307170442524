"""The task of each record in the batch, as integers beside whatever another collator makes of the record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from cotbal.tasks import TaskIndex, record_task

# PEFT's forward has a parameter `task_ids` of its own, which it drops without a word.
TASK_IDS = "cotbal_task_ids"
# A host integer, at least the batch's valid labels: with it nobody waits for a GPU to count them.
VALID_COUNT = "cotbal_valid_count"


class TaskCollator:
    """Wraps a collator: its batch gets the records' task ids, int64 (B,), under `cotbal_task_ids`.

    A collator that flattens its records into one row gets one id per segment, in the same order.

    Args:
        collator: makes the batch, from records without their task.
        tasks: task names in the order of their ids.
        field: the key that holds the task where `task` is absent.
        keep: leave the task in the record for a collator that wants it.

    Example:
        >>> from transformers import DataCollatorWithFlattening
        >>> collator = TaskCollator(DataCollatorWithFlattening(), ["VQAv2", "GQA"])
        >>> batch = collator([{"input_ids": [5, 6], "task": "GQA"}, {"input_ids": [7, 8, 9], "task": "VQAv2"}])
        >>> batch["cotbal_task_ids"]
        tensor([1, 0])
    """

    def __init__(
        self,
        collator: Callable[[list[Any]], Mapping[str, Any]],
        tasks: Iterable[str],
        *,
        field: str | None = None,
        keep: bool = False,
    ) -> None:
        self.collator, self.index, self.field, self.keep = collator, TaskIndex(tuple(tasks)), field, keep

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task names in the order of their ids."""
        return self.index.names

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the wrapped collator's batch with the ids of the records.

        Raises:
            ValueError: a record without a task, or of an unknown one.
        """
        ids = [self.index.id(record_task(record, field=self.field)) for record in features]
        hidden = () if self.keep else ("task", self.field)
        records = [{key: record[key] for key in record if key not in hidden} for record in features]
        batch = dict(self.collator(records))
        batch[TASK_IDS] = torch.tensor(ids, dtype=torch.int64)
        return batch
