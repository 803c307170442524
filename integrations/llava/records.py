"""The task of each record, through LLaVA's dataset and collator: integers beside whatever they make."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from cotbal.integrations.huggingface.collator import TASK_IDS
from cotbal.integrations.llava.files import loading_with_files
from cotbal.replacements import Replacements
from cotbal.tasks import DECLARED, TaskIndex, record_task, task_names, unknown_task

# An item's task, from the dataset to the collator.
_ITEM = "cotbal_task_id"
# Where the file that a record came from is noted while the data is read.
FILE = "cotbal_file"
# Where a dataset keeps how many records of each task it has.
COUNTS = "cotbal_counts"


class TaskRecords:
    """Which tasks the data has, and the id of each record.

    Args:
        tasks: task names in the order of their ids; None: those of the data, sorted.
        file_tasks: task by file, for records that name none.

    Attributes:
        counts: how many records of each task the last data had.
    """

    def __init__(
        self, tasks: Iterable[str] | None = None, file_tasks: Mapping[str, str] | None = None
    ) -> None:
        self.file_tasks = file_tasks
        self._stated = None if tasks is None else TaskIndex(task_names(tasks))
        self.index: TaskIndex | None = self._stated
        self.counts: Counter[str] = Counter()
        self._are_taken = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task names in the order of their ids.

        Raises:
            ValueError: no task was stated and no data was read yet.
        """
        if self.index is None:
            raise ValueError("tasks: expected them from the data, none was read yet; pass tasks=[...]")
        return self.index.names

    def take(self) -> tuple[str, ...]:
        """`tasks` for a trainer: their ids stay, whatever an evaluation's data has besides."""
        self._are_taken = True
        return self.tasks

    def learn(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Checks the task of every record, and adds to the tasks where none were stated.

        Raises:
            ValueError: no array of records, records without a task, or of one that is not known, with the
                first of them.
        """
        self.counts = Counter()
        unknown: list[tuple[object, str]] = []
        for record in records:
            if not isinstance(record, Mapping):
                came = "an object" if isinstance(records, Mapping) else f"{record!r:.60} in it"
                raise ValueError(
                    f"--data_path: expected a JSON array of records, got {came}; of a folder that `cotbal "
                    "prepare mix` wrote it is mixture.json"
                )
            name = self.task(record)
            self.counts[name] += 1
            if self._stated is not None and name not in self._stated.names:
                unknown.append((record.get("id"), name))
        if self._stated is not None and unknown:
            identity, name = unknown[0]
            raise ValueError(
                f"data: {len(unknown)} of {len(records)} records have a task without a weight, the first is "
                f"record {identity!r} of {unknown_task(name, self._stated.names)}. Add it to the weights, or "
                "take those records out"
            )
        if self._stated is None:
            known = () if self.index is None else self.index.names
            more = sorted(self.counts.keys() - {*known})
            self.index = TaskIndex((*known, *more) if self._are_taken else tuple(sorted([*known, *more])))

    def task(self, record: Mapping[str, Any]) -> str:
        """The task name of one record, by its own field, else by its file.

        Raises:
            ValueError: neither tells it.
        """
        return record_task(record, field=DECLARED, file=record.get(FILE), file_tasks=self.file_tasks)

    def id(self, record: Mapping[str, Any]) -> int:
        """The id of one record's task."""
        assert self.index is not None, "learn comes first"
        return self.index.id(self.task(record))


def batch_ids(instances: Sequence[Mapping[str, Any]]) -> Tensor | None:
    """The task ids (B,) int64 of the collator's items; None where none has any.

    Raises:
        ValueError: some have one and some do not.
    """
    ids = [instance[_ITEM] for instance in instances if _ITEM in instance]
    if not ids:
        return None
    if len(ids) != len(instances):
        raise ValueError(
            f"{_ITEM}: expected a task in each of the batch's {len(instances)} items, got {len(ids)}; was a "
            "dataset built before cotbal.patch()?"
        )
    return torch.tensor(ids, dtype=torch.int64)


def replace_data_classes(train_module: ModuleType, records: TaskRecords, replaced: Replacements) -> None:
    """Makes LLaVA's dataset and collator carry the task of each record.

    Args:
        train_module: `llava.train.train`.
        records: what knows the tasks.
        replaced: where the replaced attributes are noted.
    """
    dataset, collator = train_module.LazySupervisedDataset, train_module.DataCollatorForSupervisedDataset
    own_init, own_collate = dataset.__init__, collator.__call__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        with loading_with_files(train_module, FILE, records.file_tasks is not None):
            own_init(self, *args, **kwargs)
        records.learn(self.list_data_dict)
        setattr(self, COUNTS, records.counts)

    def collate(self: Any, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ids = batch_ids(instances)
        batch = own_collate(self, instances)
        if ids is not None:
            batch[TASK_IDS] = ids
        return batch

    replaced.set(dataset, "__init__", init)
    # LLaVA-NeXT's `_get_item` may return the next sample by calling itself: the innermost call tells.
    name = "_get_item" if hasattr(dataset, "_get_item") else "__getitem__"
    replaced.set(dataset, name, _with_task(getattr(dataset, name), records))
    replaced.set(collator, "__call__", collate)


def _with_task(own: Callable[..., Any], records: TaskRecords) -> Callable[..., Any]:
    def item(self: Any, i: Any) -> Any:
        made = own(self, i)
        made.setdefault(_ITEM, records.id(self.list_data_dict[i]))
        return made

    return item
