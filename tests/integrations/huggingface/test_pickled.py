"""A model with our loss in it: a pickle is refused with the remedy, a deep copy is not."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import cotbal
from cotbal.integrations.huggingface import CoTBalTrainer
from tests.integrations.huggingface.training import (
    TASKS,
    WEIGHTS,
    arguments,
    collator,
    pad,
    records,
    tiny_model,
)


def check_refused(model: Any, path: Path) -> None:
    remedy = r"without the loss of cotbal to pickle it.* call trainer.stop_balancing\(\) or unpatch\(\) first"
    with pytest.raises(ValueError, match=remedy):
        pickle.dumps(model)
    with pytest.raises(ValueError, match=remedy):
        torch.save(model, path)


def check_saved(model: Any, path: Path) -> None:
    torch.save(model, path)
    batch = pad(records(4))
    loaded = torch.load(path, weights_only=False)
    assert torch.equal(loaded(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_a_trained_model_is_saved_whole_once_the_loss_is_off(tmp_path: Path, level: str) -> None:
    trainer = CoTBalTrainer(
        tiny_model(),
        arguments(tmp_path, steps=1),
        train_dataset=records(4),
        data_collator=collator(),
        weights=WEIGHTS,
        level=level,
    )
    trainer.train()
    check_refused(trainer.model, tmp_path / "model.pt")
    batch, own = pad(records(4)), trainer.model(**pad(records(4))).loss
    assert torch.equal(copy.deepcopy(trainer.model)(**batch).loss, own)
    trainer.stop_balancing()
    check_saved(trainer.model, tmp_path / "model.pt")


def test_a_patched_model_is_saved_whole_once_the_loss_is_off(tmp_path: Path) -> None:
    model = tiny_model()
    with cotbal.patch(model, weights=WEIGHTS, tasks=TASKS, denominator="micro"):
        check_refused(model, tmp_path / "model.pt")
    check_saved(model, tmp_path / "model.pt")
