"""Batches of about the same length: which records, in what order, and that a resumed training keeps it."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
from torch.utils.data import RandomSampler
from transformers import TrainingArguments

from cotbal.integrations.huggingface.finetune import entry
from cotbal.integrations.huggingface.finetune.records import read_files
from cotbal.integrations.huggingface.finetune.sampler import FinetuneTrainer, LengthSampler
from tests.integrations.huggingface.chat_world import World, make_world
from tests.integrations.huggingface.finetune.world import GROUPED, mixture, record, run, words, write

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chat"))


@pytest.mark.parametrize("n_records", [1, 7, 8, 403, 1003])
def test_each_record_comes_once_among_others_of_its_length(n_records: int) -> None:
    draw, n_batch = Random(0), 8
    lengths = [(draw.randrange(2), int(draw.lognormvariate(5, 1))) for _ in range(n_records)]
    at = iter((0, 1, 0))
    sampler = LengthSampler(lengths, n_batch, 3, lambda: next(at))
    epochs = []
    for _ in range(3):
        epochs.append(list(sampler))
        assert sorted(epochs[-1]) == list(range(n_records)) == list(range(len(sampler)))
    assert epochs[0] == epochs[2]
    if n_records <= n_batch:
        return
    assert epochs[0] != epochs[1]
    assert epochs[0] != list(LengthSampler(lengths, n_batch, 5, lambda: 0))

    def padding(order: list[int]) -> int:
        batches = [order[place : place + n_batch] for place in range(0, n_records, n_batch)]
        longest = [max(lengths[each] for each in batch) for batch in batches]
        assert longest[0] == max(longest[: n_records // n_batch])
        rows = [(tops, lengths[each]) for tops, batch in zip(longest, batches, strict=True) for each in batch]
        return sum(tops[1] - own[1] for tops, own in rows if tops[0] == own[0])

    if n_records > 400:
        shuffled = draw.sample(range(n_records), n_records)
        top = max(range(n_records), key=lengths.__getitem__)
        shuffled.insert(0, shuffled.pop(shuffled.index(top)))
        assert padding(epochs[0]) < 0.25 * padding(shuffled)
        # Not from the longest to the shortest: a step's batches are of all lengths.
        first, second = (epochs[0][start : start + n_records // 2] for start in (0, n_records // 2))
        means = [sum(lengths[each][1] for each in half) / len(half) for half in (first, second)]
        assert 0.5 < means[0] / means[1] < 2


def test_a_batch_is_of_all_ranks(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is made of: micro-batches times ranks, the pictures and characters, and the seed."""
    given = write(tmp_path, mixture())
    records = read_files([given[1]])
    assert records.lengths[:2] == [
        (1, len("<image>\nwhat is it" + "red that")),
        (0, len("what is here" + "it is shown 0")),
    ]
    monkeypatch.setattr(TrainingArguments, "world_size", 3)
    options: dict[str, Any] = {"per_device_train_batch_size": 2, "use_cpu": True}
    args = TrainingArguments(str(tmp_path), **options, **GROUPED)
    trainer = FinetuneTrainer.__new__(FinetuneTrainer)
    trainer.args, trainer.train_dataset = args, records
    made = trainer._get_train_sampler(records)
    assert (made.n_batch, made.seed, made.lengths) == (6, 42, records.lengths)
    args.data_seed = 5
    assert trainer._get_train_sampler().seed == 5
    trainer.args = TrainingArguments(str(tmp_path), **options)
    assert isinstance(trainer._get_train_sampler(records), RandomSampler)


def test_a_resumed_training_has_the_order_of_the_unbroken_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second epoch."""
    records = [record(n, ("what is it", "it is " + "red " * (n % 7)), task="chat") for n in range(10)]
    given = write(tmp_path, records)
    options = {**GROUPED, "max_steps": 9, "save_steps": 7}
    options |= {"per_device_train_batch_size": 2}
    seen: list[list[str]] = []
    collate = entry.DialogueCollator.__call__

    def watched(self, records):  # type: ignore[no-untyped-def]
        seen.append([each["item"].name for each in records])
        return collate(self, records)

    monkeypatch.setattr(entry, "N_LONGEST", 0)
    monkeypatch.setattr(entry.DialogueCollator, "__call__", watched)
    out = tmp_path / "out"
    assert run([*given, *words(world, world.text, out, **options)]) == 0
    whole, seen[:] = seen[:9], []
    assert sorted(name for batch in whole[:5] for name in batch) == sorted(
        {name for batch in whole for name in batch}
    )
    assert whole[:4] != whole[5:]
    shutil.rmtree(out / "checkpoint-9")
    assert run([*given, *words(world, world.text, out, **options)]) == 0
    assert seen[:2] == whole[7:]
