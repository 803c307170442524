"""Evaluation and generation are LLaVA's own while the patch is on, before training and after it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from llava.train import train as llava_train
from torch import Tensor
from transformers import Trainer

from cotbal.integrations.llava.records import TaskRecords
from tests.integrations.llava.cases import Case
from tests.integrations.llava.launch import run
from tests.integrations.llava.world import World

# torch's deprecations in the code of LLaVA and transformers, an open file of LLaVA's.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_evaluation_and_generation_are_llavas_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, trained, seen = Trainer.train, {}, []

    def watched_train(trainer: Any, *arguments: Any, **keywords: Any) -> None:
        seen.append(_observe(trainer))
        if trained:
            trainer.model.load_state_dict(trained)
        else:
            train(trainer, *arguments, **keywords)
            trained.update(trainer.model.state_dict())
        seen.append(_observe(trainer))

    monkeypatch.setattr(Trainer, "train", watched_train)
    for case in (Case("patched"), Case("own", weights=None)):
        assert not (error := run(case, world, tmp_path).error), error
    before, after, own_before, own_after = seen
    assert before == own_before
    assert after == own_after
    assert before != after


def test_an_evaluation_set_changes_neither_ids_nor_counts(
    world: World, tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many a fork has one, by the same class: of fewer tasks, read after the training's."""
    own, records = llava_train.make_supervised_data_module, json.loads(world.data.read_text())
    path = tmp_path / "held_out.json"
    path.write_text(json.dumps([record for record in records if record["task"] in ("vqa", "grounding")][:6]))

    def with_evaluation(tokenizer: Any, data_args: Any) -> dict[str, Any]:
        made = own(tokenizer, data_args)
        made["eval_dataset"] = llava_train.LazySupervisedDataset(str(path), tokenizer, data_args)
        return made

    monkeypatch.setattr(llava_train, "make_supervised_data_module", with_evaluation)
    evaluated = {"evaluation_strategy": "epoch", "prediction_loss_only": True, "max_steps": 1}
    recording = run(Case("evaluated", evaluated, "dwa"), world, tmp_path)
    assert not recording.error, recording.error
    assert sum("eval_loss" in log for log in recording.logs) == 1
    card = (tmp_path / "evaluated" / "output" / "README.md").read_text()
    counts = dict(re.findall(r"^\| (\w+) \| (\d+) \|", card, flags=re.MULTILINE))
    assert counts == {task: str(tasks.count(task)) for task in sorted({*tasks})}


def test_ids_stay_once_a_trainer_has_them() -> None:
    records = TaskRecords()
    records.learn([{"task": "c"}, {"task": "a"}])
    records.learn([{"task": "b"}])
    assert records.take() == ("a", "b", "c")
    records.learn([{"task": "aa"}, {"task": "c"}])
    assert [records.id({"task": task}) for task in ("a", "b", "c", "aa")] == [0, 1, 2, 3]


def _observe(trainer: Any) -> tuple[Any, ...]:
    """The loss of an evaluation, what is generated, and logits, of a model that is not training."""
    loss = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    model, item = trainer.model.eval(), trainer.train_dataset[0]
    inputs = {"input_ids": item["input_ids"][None], "images": item["image"][None]}
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
        generated = model.generate(
            inputs["input_ids"], images=inputs["images"], max_new_tokens=6, do_sample=False
        )
    return loss, generated.tolist(), logits.flatten().tolist()
