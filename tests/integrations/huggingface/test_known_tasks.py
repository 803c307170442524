"""A task that is not known is told before the first step, and not by its batch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from cotbal.integrations.huggingface import TaskCollator
from cotbal.integrations.huggingface.known_tasks import check_tasks
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    OrderedTrainer,
    Record,
    arguments,
    collator,
    pad,
    records,
    tiny_model,
)

Make = Callable[[list[Record]], Any]
MAKES: list[Make] = [list, datasets.Dataset.from_list]


def with_task(data: Sequence[Record], place: int, task: Any) -> list[Record]:
    return [record | ({"task": task} if place == number else {}) for number, record in enumerate(data)]


def check(train: Any, own: Any = None) -> None:
    check_tasks(SimpleNamespace(data_collator=own or collator(), train_dataset=train))


@pytest.mark.parametrize("make", MAKES)
def test_a_training_does_not_begin(make: Make, tmp_path: Path) -> None:
    trainer = OrderedTrainer(
        tiny_model(),
        arguments(tmp_path, steps=3),
        train_dataset=make(with_task(records(12), 9, "mmlu")),
        data_collator=collator(),
        weights=WEIGHTS,
    )
    message = r"^train_dataset\[9\]: task: expected a known task, got 'mmlu'; .*; give the task a weight, or"
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert not hasattr(trainer, "losses"), "a step was made"


@pytest.mark.parametrize("make", MAKES)
def test_a_record_without_a_task_among_others(make: Make) -> None:
    mixed = with_task([record | {"id": number} for number, record in enumerate(records(8))], 5, None)
    with pytest.raises(
        ValueError, match=r"^train_dataset\[5\]: record 5: expected its task in 'task'"
    ) as told:
        check(make(mixed))
    assert "give the task a weight" not in str(told.value)


@pytest.mark.parametrize("make", MAKES)
def test_records_that_tell_no_task_are_their_batches_matter(make: Make) -> None:
    without = [{"input_ids": [1], "task": None}, {"input_ids": [2], "task": None}]
    check(make(without))
    check(make([{"input_ids": [1]}]))


def test_what_tells_the_task_is_looked_at_as_the_collator_does() -> None:
    own = TaskCollator(pad, TASKS, field=("kind", "source"), file_field="file", file_tasks={"a.json": "long"})
    rows = [
        {"kind": "short", "source": "x", "file": "b.json"},
        {"kind": None, "source": "long", "file": "b.json"},
        {"kind": None, "source": None, "file": "data/a.json"},
    ]
    for make in MAKES:
        check(make(rows), own)
        with pytest.raises(ValueError, match=r"^train_dataset\[3\]: a record without an id: expected its"):
            check(make([*rows, rows[0] | {"kind": None, "source": None}]), own)


def test_a_selection_of_a_table_is_looked_at_in_its_own_order() -> None:
    table = datasets.Dataset.from_list(with_task(records(9), 7, "mmlu"))
    check(table.filter(lambda record: record["task"] != "mmlu").shuffle(seed=0))
    check(table.select(range(7)))
    with pytest.raises(ValueError, match=r"^train_dataset\[1\]: task: expected a known task, got 'mmlu'"):
        check(table.select([8, 7, 0]))


def test_no_other_column_is_read() -> None:
    class Unread(datasets.Image):
        def decode_example(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("a picture was read")

    pictures = {"bytes": b"no picture", "path": None}
    table = datasets.Dataset.from_list([record | {"image": pictures} for record in records(4)])
    table = table.cast_column("image", Unread())
    with pytest.raises(AssertionError, match="a picture was read"):
        table[0]
    check(table)


def test_what_is_not_known_beforehand_is_left_to_the_batch() -> None:
    """Columns that are not seen, records that a transform or the collator makes."""
    bad = with_task(records(4), 1, "mmlu")
    table = datasets.Dataset.from_list(bad)

    class Renames(TaskCollator):
        def __call__(self, features: Any) -> dict[str, Any]:
            return super().__call__([record | {"task": "long"} for record in features])

    check(None)
    check(table.with_format("torch", columns=["input_ids", "labels"]))
    check(table.with_transform(lambda batch: batch | {"task": ["long"] * len(batch["task"])}))
    check(bad, Renames(pad, TASKS))
    check(iter(bad))
    check([1, 2])
    check(bad, pad)


def test_numbers_of_a_class_label_are_refused_at_once() -> None:
    table = datasets.Dataset.from_list(records(4)).cast_column("task", datasets.ClassLabel(names=TASKS))
    with pytest.raises(TypeError, match=r"^train_dataset\[0\]: .* as strings, got 0; a ClassLabel column"):
        check(table)
