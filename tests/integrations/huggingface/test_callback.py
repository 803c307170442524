"""The curves per task, as every tracker gets them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from cotbal.balancing import RLW
from cotbal.integrations.huggingface import TaskLogCallback
from tests.integrations.huggingface.training import (
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    expected,
    records,
    tiny_model,
)

KEYS = ("task_loss", "task_tokens", "task_accuracy", "task_weight")


class Tracker(TrainerCallback):
    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logged.append({"step": state.global_step, **logs})


def run(folder: Path, weights: Any = WEIGHTS, **options: Any) -> tuple[OrderedTrainer, list[dict[str, Any]]]:
    tracker = Tracker()
    trainer = OrderedTrainer(
        tiny_model(),
        arguments(folder, **options),
        train_dataset=records(24),
        data_collator=collator(),
        weights=weights,
        callbacks=[tracker],
    )
    trainer.train()
    return trainer, tracker.logged


def test_each_logging_step_logs_the_steps_since_the_last(tmp_path: Path) -> None:
    trainer, logged = run(tmp_path, batch=2, accumulation=4, steps=5, logging_steps=2)
    tasks = [entry for entry in logged if "task_tokens/short" in entry]
    assert [entry["step"] for entry in tasks] == [2, 4]
    # The Trainer's own loss is logged as ever.
    assert [entry["step"] for entry in logged if "loss" in entry] == [2, 4]
    assert set(tasks[0]) == {f"{key}/{name}" for key in KEYS for name in WEIGHTS} | {"epoch", "step"}
    assert [entry for entry in trainer.state.log_history if "task_loss/long" in entry] == tasks
    for entry, rows in zip(tasks, (records(24)[:16], records(24)[16:] + records(24)[:8]), strict=True):
        for name, weight in WEIGHTS.items():
            counts = [sum(x != -100 for x in row["labels"][1:]) for row in rows if row["task"] == name]
            assert entry[f"task_tokens/{name}"] == sum(counts)
            assert entry[f"task_weight/{name}"] == weight


def test_the_losses_and_accuracies_are_those_of_the_tasks_tokens(tmp_path: Path) -> None:
    _, logged = run(tmp_path, batch=2, accumulation=4, steps=1)
    (entry,) = (entry for entry in logged if "task_loss/short" in entry)
    for name in WEIGHTS:
        rows = [row for row in records(24)[:8] if row["task"] == name]
        model, correct, n_tokens = tiny_model(), 0, 0
        for row in rows:
            best = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].argmax(-1)
            labels = torch.tensor(row["labels"][1:])
            correct, n_tokens = correct + int((best == labels).sum()), n_tokens + int((labels != -100).sum())
        _, (loss,) = expected(model, [rows], WEIGHTS)
        assert entry[f"task_loss/{name}"] == pytest.approx(loss, rel=2e-6)
        assert entry[f"task_accuracy/{name}"] == pytest.approx(correct / n_tokens)
    # The data is such that neither is trivial.
    assert entry["task_loss/long"] > 1.2 * entry["task_loss/short"]
    assert 0 < entry["task_accuracy/short"] < 1


def test_a_rules_weights_are_logged_as_they_were_used(tmp_path: Path) -> None:
    trainer, logged = run(tmp_path, RLW(seed=3), steps=6, logging_steps=1)
    again = RLW(seed=3).bind(trainer.tasks)
    weights = [again.weights(torch.ones(2)).tolist() for _ in range(6)]
    tasks = [entry for entry in logged if "task_weight/short" in entry]
    assert [[entry[f"task_weight/{name}"] for name in WEIGHTS] for entry in tasks] == weights


def test_logging_by_epoch_and_not_at_all(tmp_path: Path) -> None:
    _, logged = run(tmp_path, batch=8, steps=6, logging_strategy="epoch")
    assert [entry["step"] for entry in logged if "task_loss/short" in entry] == [3, 6]
    _, logged = run(tmp_path, steps=2, logging_strategy="no")
    assert not [entry for entry in logged if "task_loss/short" in entry]


def test_it_can_be_taken_away(tmp_path: Path) -> None:
    tracker = Tracker()
    trainer = OrderedTrainer(
        tiny_model(),
        arguments(tmp_path, steps=2),
        train_dataset=records(24),
        data_collator=collator(),
        weights=WEIGHTS,
        callbacks=[tracker],
    )
    trainer.remove_callback(TaskLogCallback)
    trainer.train()
    assert not [entry for entry in tracker.logged if "task_loss/short" in entry]
    assert trainer.task_logs()["task_weight/short"] == WEIGHTS["short"]
