"""A collator that sorts its records would have each trained on as another's task."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DataCollatorWithFlattening

from cotbal.integrations.huggingface import TaskCollator
from cotbal.integrations.huggingface.row_order import check_order
from tests.integrations.huggingface.training import TASKS, Record, pad, records

ORDER = [0, 3, 2, 1, 4, 5]


def to_the_left(features: list[Record]) -> dict[str, Tensor]:
    backwards = [{key: record[key][::-1] for key in ("input_ids", "labels")} for record in features]
    return {key: values.flip(1) for key, values in pad(backwards).items()}


def from_the_inputs(features: list[Record]) -> dict[str, Tensor]:
    """Makes the labels itself, as transformers' collator for language modeling does."""
    batch = pad([record | {"labels": record["input_ids"]} for record in features])
    return batch | {"labels": batch["input_ids"]}


def without_a_mask(features: list[Record]) -> dict[str, Tensor]:
    return {key: values for key, values in pad(features).items() if key != "attention_mask"}


def in_tensors(features: list[Record]) -> dict[str, Tensor]:
    return pad([{key: values.tolist() for key, values in record.items()} for record in features])


def tensors(record: Record) -> Record:
    return {key: value if key == "task" else torch.tensor(value) for key, value in record.items()}


def unlabelled(record: Record) -> Record:
    return {key: record[key] for key in ("input_ids", "task")}


@pytest.mark.parametrize(
    ("collate", "prepare"),
    [
        (pad, dict),
        (to_the_left, dict),
        (without_a_mask, dict),
        (in_tensors, tensors),
        (from_the_inputs, unlabelled),
    ],
)
def test_rows_in_another_order_are_refused(collate: Any, prepare: Any) -> None:
    data = [prepare(record) for record in records(6)]
    kept = TaskCollator(collate, TASKS)(data)
    assert kept["cotbal_task_ids"].tolist() == [0, 0, 1, 0, 0, 1]
    sorts = TaskCollator(lambda features: collate([features[index] for index in ORDER]), TASKS)
    with pytest.raises(ValueError, match=r"^collator: expected .* got record 3 in row 1: .* Keep the order"):
        sorts(data)


def test_records_that_were_padded_beforehand() -> None:
    def padded(record: Record) -> Record:
        batch = pad([record, {"input_ids": [0] * 24, "labels": [0] * 24}])
        return {"input_ids": batch["input_ids"][0], "attention_mask": batch["attention_mask"][0]}

    def longest_first(features: list[Record]) -> dict[str, Tensor]:
        features = sorted(features, key=lambda record: -int(record["attention_mask"].sum()))
        return {key: torch.stack([each[key] for each in features]) for key in features[0]}

    data = [padded(record) | {"task": record["task"]} for record in records(3)]
    with pytest.raises(ValueError, match="got record 2 in row 0"):
        TaskCollator(longest_first, TASKS)(data)


def cut(features: list[Record]) -> dict[str, Tensor]:
    return {key: values[:, :8] for key, values in pad(features).items()}


def masked(features: list[Record]) -> dict[str, Tensor]:
    batch = pad(features)
    batch["labels"][:, :3] = -100
    return batch


def with_a_first_token(features: list[Record]) -> dict[str, Tensor]:
    return {key: torch.nn.functional.pad(values, (1, 0), value=1) for key, values in pad(features).items()}


@pytest.mark.parametrize("prepare", [dict, unlabelled])
@pytest.mark.parametrize("change", [cut, masked, with_a_first_token])
def test_a_collator_that_changes_the_tokens_is_not_judged(change: Any, prepare: Any) -> None:
    """Two of these records become the same."""
    data = [{"input_ids": [7] * length, "labels": [7] * length, "task": "short"} for length in (12, 9, 10)]
    collator = TaskCollator(
        lambda features: change([{"labels": r["input_ids"]} | r for r in features]), TASKS
    )
    assert collator([prepare(record) for record in data])["cotbal_task_ids"].tolist() == [0, 0, 0]


def test_equal_records_have_any_order() -> None:
    data = [records(1)[0], records(1)[0] | {"task": "long"}]
    assert TaskCollator(lambda features: pad(features[::-1]), TASKS)(data)["cotbal_task_ids"].tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize("labels", [None, 3, "text", [[1, 2], [3, 4]], [[1], [2, 3]]])
def test_what_is_no_sequence_of_tokens_is_not_judged(labels: Any) -> None:
    data = [{"labels": labels, "task": "short"}, {"labels": labels, "task": "long"}]
    batch = TaskCollator(lambda _: {"labels": torch.tensor([[5, 6], [7, 8]])}, TASKS)(data)
    assert batch["cotbal_task_ids"].tolist() == [0, 1]


def test_segments_of_one_row_are_not_judged() -> None:
    flatten = DataCollatorWithFlattening()
    batch = TaskCollator(lambda features: flatten(features[::-1]), TASKS)(records(3))
    assert batch["cotbal_task_ids"].tolist() == [0, 0, 1]


def test_rows_in_their_order_are_compared_without_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are long, and a training's own process may be the one that makes the batches."""
    data = [tensors(record) for record in records(6)]
    batch = pad(records(6))

    def refuse(_: Tensor) -> None:
        raise AssertionError

    monkeypatch.setattr(Tensor, "tolist", refuse)
    check_order(data, batch)
    with pytest.raises(AssertionError):
        check_order(data[::-1], batch)
