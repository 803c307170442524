"""LLaVA-NeXT's dataset gives another record where one cannot be read; the task is that of the record given.

Its way is written out here in small, so that this runs without a checkout; `test_step_loss` has the real one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cotbal.integrations.huggingface.collator import TASK_IDS
from cotbal.integrations.llava.records import TaskRecords, replace_data_classes
from cotbal.replacements import Replacements

TASKS = ("vqa", "video", "chat")
RECORDS = [
    {"id": 0, "task": "vqa"},
    {"id": 1, "task": "video", "broken": True},
    {"id": 2, "task": "video", "broken": True},
    {"id": 3, "task": "chat"},
    {"id": 4, "task": "vqa", "raises": True},
    {"id": 5, "task": "chat"},
]


class Dataset:
    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.list_data_dict = records

    def __getitem__(self, i: int) -> dict[str, Any]:
        try:
            return self._get_item(i)
        except OSError:
            return self._get_item(i + 1)

    def _get_item(self, i: int) -> dict[str, Any]:
        record = self.list_data_dict[i]
        if "raises" in record:
            raise OSError(record)
        return self._get_item(i + 1) if "broken" in record else {"id": record["id"]}


class Collator:
    def __call__(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"ids": [instance["id"] for instance in instances], "modalities": ["text"] * len(instances)}


@pytest.fixture
def module() -> ModuleType:
    module = ModuleType("train")
    module.LazySupervisedDataset = type("LazySupervisedDataset", (Dataset,), {})
    module.DataCollatorForSupervisedDataset = Collator
    return module


def test_the_task_is_that_of_the_record_given(module: ModuleType) -> None:
    replaced = Replacements()
    replace_data_classes(module, TaskRecords(TASKS), replaced)
    try:
        dataset = module.LazySupervisedDataset(RECORDS)
        batch = module.DataCollatorForSupervisedDataset()([dataset[i] for i in range(6)])
    finally:
        replaced.undo()
    assert batch["ids"] == [0, 3, 3, 3, 5, 5]
    assert batch[TASK_IDS].tolist() == [TASKS.index(RECORDS[i]["task"]) for i in batch["ids"]]


def test_files_of_a_mixture_tell_the_task(module: ModuleType, tmp_path: Path) -> None:
    """By one JSON, one JSON of lines, each opened after a file that lists them."""
    paths = {"vqa.json": "vqa", "chat.jsonl": "chat"}
    (tmp_path / "vqa.json").write_text(json.dumps([{"id": 1}, {"id": 2}]))
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps({"id": i}) for i in (3, 4)))
    source = """
import json
class LazySupervisedDataset:
    def __init__(self, folder):
        with open(folder / "vqa.json") as file:
            self.list_data_dict = json.load(file)
        with open(folder / "chat.jsonl") as file:
            self.list_data_dict += [json.loads(line) for line in file]
    def _get_item(self, i):
        return {"id": self.list_data_dict[i]["id"]}
"""
    exec(source, vars(module))
    replaced, records = Replacements(), TaskRecords(None, paths)
    replace_data_classes(module, records, replaced)
    try:
        dataset = module.LazySupervisedDataset(tmp_path)
        batch = module.DataCollatorForSupervisedDataset()([dataset._get_item(i) for i in range(4)])
    finally:
        replaced.undo()
    assert records.tasks == ("chat", "vqa")
    assert batch[TASK_IDS].tolist() == [1, 1, 0, 0]
