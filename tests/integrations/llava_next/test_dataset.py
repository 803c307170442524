"""LLaVA-NeXT's real dataset after `cotbal.patch()`: ways to name its files, a record that cannot be read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integrations.llava_next import CHECKOUT

if CHECKOUT is None:
    pytest.skip("no LLaVA-NeXT: name a checkout of it in COTBAL_TEST_LLAVA_NEXT", allow_module_level=True)

from llava import conversation
from llava.train.train import DataCollatorForSupervisedDataset, LazySupervisedDataset
from transformers import AutoTokenizer, CLIPImageProcessor

import cotbal
from cotbal.integrations.huggingface.collator import TASK_IDS
from tests.integrations.llava_next.records import TASKS
from tests.integrations.llava_next.step_loss_cases import FILES
from tests.integrations.llava_next.world import World

pytestmark = pytest.mark.full


@pytest.fixture
def arguments(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(conversation, "default_conversation", conversation.conv_templates["qwen_1_5"])
    yield SimpleNamespace(
        is_multimodal=True,
        mm_use_im_start_end=False,
        image_folder=str(world.images),
        video_folder=str(world.images),
        image_aspect_ratio="pad",
        image_processor=CLIPImageProcessor.from_pretrained(world.tower),
        force_sample=True,
        frames_upbound=4,
        add_time_instruction=False,
    )
    cotbal.unpatch()


def _dataset(world: World, path: Any, arguments: SimpleNamespace) -> LazySupervisedDataset:
    return LazySupervisedDataset(str(path), AutoTokenizer.from_pretrained(world.model), arguments)


def _task_ids(dataset: LazySupervisedDataset, places: list[int]) -> list[int]:
    batch = DataCollatorForSupervisedDataset(dataset.tokenizer)([dataset[place] for place in places])
    return batch[TASK_IDS].tolist()


def test_files_in_braces(world: World, arguments: SimpleNamespace) -> None:
    cotbal.patch(tasks=FILES)
    dataset = _dataset(world, world.folder / "{vqa,story,caption}.json", arguments)
    ends = [0, 11, 12, 17, 18, 25]
    assert _task_ids(dataset, ends) == [2, 2, 1, 1, 0, 0], "by name: caption, story, vqa"


def test_sampling_strategies(world: World, arguments: SimpleNamespace) -> None:
    cotbal.patch(tasks=FILES)
    dataset = _dataset(world, world.mixture, arguments)
    tasks = [record["id"].rsplit("-", 1)[0] for record in dataset.list_data_dict]
    assert [tasks.count(task) for task in TASKS] == [6, 6, 5, 4, 8]
    places = [tasks.index(task) for task in TASKS]
    assert _task_ids(dataset, places) == [sorted(TASKS).index(task) for task in TASKS]


def test_a_file_without_a_task(world: World, arguments: SimpleNamespace) -> None:
    cotbal.patch(tasks={"vqa.json": "vqa"})
    with pytest.raises(ValueError, match=r"or that of its file .*caption\.json, got neither"):
        _dataset(world, world.mixture, arguments)


def test_the_next_record_brings_its_own_task(
    world: World, arguments: SimpleNamespace, tmp_path: Path
) -> None:
    """Frames that are missing: it returns the record after, of whatever task."""
    cotbal.patch(tasks=TASKS)
    dataset = _dataset(world, world.data, arguments)
    records = dataset.list_data_dict
    place = next(i for i, each in enumerate(records) if "video" in each and records[i + 1]["task"] != "video")
    folder = world.images / records[place]["video"]
    shutil.move(folder, tmp_path)
    try:
        assert _task_ids(dataset, [place]) == [TASKS.index(records[place + 1]["task"])]
    finally:
        shutil.move(tmp_path / folder.name, folder)
    assert _task_ids(dataset, [place]) == [TASKS.index("video")]
