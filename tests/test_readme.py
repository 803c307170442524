"""Every Python block of a README runs, with the names that it takes from its reader's program."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer

import cotbal
from cotbal.integrations.huggingface import CoTBalTrainer, TaskCollator
from tests.integrations.huggingface.training import VOCABULARY, arguments, pad, records, tiny_model

ROOT = Path(__file__).parents[1]
TASKS = ["VQAv2", "GQA"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What READMEs do not write out: a model, a batch, arguments of a trainer; in a folder with weights."""
    monkeypatch.chdir(tmp_path)
    cotbal.TaskWeights({"VQAv2": 0.8, "GQA": 1.2}).save("weights.json")
    torch.manual_seed(0)
    task_ids, labels = torch.tensor([0, 1]), torch.randint(VOCABULARY, (2, 5))
    return {
        **{"torch": torch, "F": F, "cotbal": cotbal, "Trainer": Trainer, "CoTBalTrainer": CoTBalTrainer},
        **{"TaskCollator": TaskCollator, "tasks": TASKS, "collator": pad, "model": tiny_model()},
        "args": arguments(tmp_path / "out", steps=1),
        "data": [record | {"task": TASKS[index % 2]} for index, record in enumerate(records(8))],
        "logits": torch.randn(2, 5, VOCABULARY, requires_grad=True),
        "hidden": torch.randn(2, 5, 32, requires_grad=True),
        "lm_head": torch.nn.Linear(32, VOCABULARY, bias=False),
        "labels": labels,
        "task_ids": task_ids,
        "task_weights": torch.tensor([0.8, 1.2]),
        **{"weights_of_the_step": torch.tensor(8.0), "ranks": 1},
    }


def blocks(file: str, kind: str) -> list[str]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def added(diff: str) -> str:
    return "\n".join(re.sub(r"^\+ ?", "", line) for line in diff.splitlines() if line.startswith("+"))


def test_the_loss(names: dict[str, Any]) -> None:
    loss, _ = blocks("README.md", "python")
    exec(loss, names)
    assert names["loss"].ndim == 0
    assert names["stats"].token_count.tolist() == [4, 4]


def test_the_trainer(names: dict[str, Any]) -> None:
    _, trainer = blocks("README.md", "python")
    exec(trainer, names)
    names["trainer"].train()
    assert names["trainer"].tasks == tuple(TASKS)


def test_the_change_of_a_loop(names: dict[str, Any]) -> None:
    (diff,) = blocks("README.md", "diff")
    names["task_ids"] = names["task_ids"][:, None].expand_as(names["labels"])
    exec(added(diff), names)
    names["loss"].backward()
    assert names["lm_head"].weight.grad.any()


def test_the_change_of_a_trainer(names: dict[str, Any]) -> None:
    (diff,) = blocks("integrations/huggingface/README.md", "diff")
    exec(added(diff), names)
    names["trainer"].train()
    assert names["trainer"].state.global_step == 1


def test_what_deepspeeds_says_is_in_the_package() -> None:
    from importlib.resources import files

    text = (ROOT / "integrations/deepspeed/README.md").read_text(encoding="utf-8")
    assert 'files("cotbal.integrations.deepspeed") / "zero3.json"' in text
    assert (files("cotbal.integrations.deepspeed") / "zero3.json").is_file()
