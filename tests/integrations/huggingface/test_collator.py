"""The ids of the records, beside whatever a collator makes of them."""

from typing import Any

import pytest
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)

from cotbal.integrations.huggingface import TaskCollator
from cotbal.integrations.huggingface.packing import batch_targets
from tests.examples import check_examples

RECORDS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "task": "b"},
    {"input_ids": [8, 9, 10], "labels": [-100, -100, 10], "task": "a"},
]


class Tokenizer:
    padding_side = "right"
    model_input_names = ("input_ids",)

    def pad(self, features: Any, **_: Any) -> dict[str, torch.Tensor]:
        return {key: torch.tensor([each[key] for each in features]) for key in features[0]}


def test_ids_are_int64_in_the_order_of_the_tasks() -> None:
    batch = TaskCollator(default_data_collator, ["a", "b"])(RECORDS)
    assert batch["cotbal_task_ids"].dtype == torch.int64
    assert batch["cotbal_task_ids"].tolist() == [1, 0]
    assert batch["cotbal_valid_count"] == 3
    assert "task" not in batch
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 10]]
    assert "task" in RECORDS[0], "the records are the dataset's own"


def test_shifted_labels_are_what_is_counted() -> None:
    def shard(features: Any) -> dict[str, torch.Tensor]:
        return {"labels": torch.tensor([[-100, 6]]), "shift_labels": torch.tensor([[6, 7]])}

    assert TaskCollator(shard, ["a", "b"])(RECORDS)["cotbal_valid_count"] == 2


def test_one_id_per_segment_of_a_flattened_row() -> None:
    batch = TaskCollator(DataCollatorWithFlattening(), ["a", "b"])(RECORDS)
    assert batch["input_ids"].shape == (1, 6)
    assert batch["cotbal_task_ids"].tolist() == [1, 0]


def test_a_record_without_tokens_is_no_segment_of_a_flattened_row() -> None:
    """Padding behind the segments stood in for it: the records behind it had the task of the one before."""
    flattening = pytest.importorskip("trl.trainer.sft_trainer").DataCollatorForLanguageModeling
    records = [{"input_ids": [], "labels": [], "task": "a"}, *RECORDS]
    packs = TaskCollator(flattening(pad_token_id=0, padding_free=True, pad_to_multiple_of=8), ["a", "b"])
    batch = packs(records)
    assert batch["cotbal_task_ids"].tolist() == [1, 0]
    assert batch_targets(batch).task_ids[0, :6].tolist() == [1, 1, 1, 0, 0, 0]
    padded = TaskCollator(flattening(pad_token_id=0, pad_to_multiple_of=8), ["a", "b"])(records)
    assert padded["cotbal_task_ids"].tolist() == [0, 1, 0]


def test_the_task_is_read_from_another_field_or_from_the_file() -> None:
    records = [
        {"input_ids": [1], "source": "a"},
        {"input_ids": [2], "file": "data/b.json"},
        {"input_ids": [3], "file": "data/b.json", "source": "a", "task": "c"},
    ]
    for field in ("source", ("channel", "source")):
        collator = TaskCollator(
            default_data_collator,
            ["a", "b", "c"],
            field=field,
            file_field="file",
            file_tasks={"b.json": "b"},
        )
        batch = collator(records)
        assert batch["cotbal_task_ids"].tolist() == [0, 1, 2]
        assert set(batch) == {"input_ids", "cotbal_task_ids"}


def test_the_wrapped_collator_sees_nothing_of_the_tasks() -> None:
    """Also where every record tells its task by its file alone."""
    seen = []
    records = [{"input_ids": [1], "path": "data/b.json"}, {"input_ids": [2], "path": "a.json"}]
    files = {"file_field": "path", "file_tasks": {"a.json": "a", "b.json": "b"}}
    batch = TaskCollator(lambda rows: seen.extend(rows) or {}, ["a", "b"], field="kind", **files)(records)
    assert batch["cotbal_task_ids"].tolist() == [1, 0]
    assert seen == [{"input_ids": [1]}, {"input_ids": [2]}]


def test_records_without_tasks_make_a_batch_without_ids() -> None:
    records = [{key: record[key] for key in ("input_ids", "labels")} for record in RECORDS]
    assert set(TaskCollator(default_data_collator, ["a"])(records)) == {"input_ids", "labels"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"task": "A"}, r"task: expected a known task, got 'A' \(did you mean 'a'\?\); known tasks: a, b"),
        ({"id": 7}, r"record 7: expected its task in 'task'.*; TaskCollator\(.*field=\.\.\.\)"),
    ],
)
def test_an_unknown_and_a_missing_task_are_refused(record: dict[str, Any], message: str) -> None:
    collator = TaskCollator(default_data_collator, ["a", "b"])
    with pytest.raises(ValueError, match=message):
        collator([RECORDS[0], {"input_ids": [1, 2, 3], "labels": [1, 2, 3], **record}])


def test_the_numbers_of_a_class_label_are_refused_with_what_makes_names_of_them() -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["b", "a"])
    ds = datasets.Dataset.from_list(RECORDS).cast_column("task", names)
    collator = TaskCollator(default_data_collator, ["a", "b"])
    with pytest.raises(TypeError, match=r"^a record without an id.* as strings, got 0; a C") as error:
        collator([*ds])
    remedy = str(error.value).partition("its names by ")[2]
    assert collator([*eval(remedy, {"ds": ds})])["cotbal_task_ids"].tolist() == [1, 0]


def test_something_that_is_no_collator_is_refused() -> None:
    with pytest.raises(TypeError, match="collator: expected a callable that makes a batch, got list"):
        TaskCollator([], ["a"])


def test_records_and_batches_that_are_no_mappings_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^records: expected a mapping from .*, got tuple; make a dict of it"
    ):
        TaskCollator(default_data_collator, ["a"])([([1, 2], "a")])
    with pytest.raises(TypeError, match=r"^collator: expected a mapping with the tensors .*, got list; make"):
        TaskCollator(lambda records: [*records], ["a"])([{"input_ids": [1], "task": "a"}])


def test_text_that_transformers_makes_no_tensor_of_is_named() -> None:
    records = [{"input_ids": [1], "id": "x7", "dataset": "a"}]
    message = (
        r"-- the records hold text under id, dataset, of which DataCollatorWithPadding .* field=\.\.\.\)"
    )
    with pytest.raises(ValueError, match=message):
        TaskCollator(DataCollatorWithPadding(Tokenizer()), ["a"])(records)


def test_one_name_is_not_taken_for_its_letters() -> None:
    with pytest.raises(TypeError, match="tasks: expected a sequence of task names, got the single string"):
        TaskCollator(default_data_collator, "GQA")


def test_it_wraps_transformers_padding_collator() -> None:
    batch = TaskCollator(DataCollatorForSeq2Seq(Tokenizer()), ["a", "b"])(RECORDS)
    assert batch["cotbal_task_ids"].tolist() == [1, 0]


def test_the_example_runs() -> None:
    check_examples(TaskCollator)
