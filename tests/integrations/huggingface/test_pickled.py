"""A model with our loss in it: a pickle is refused with the remedy, a deep copy is a model like any other."""

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
    deviation,
    expected,
    pad,
    parameters,
    records,
    tiny_model,
)


def trainer_on(model: Any, folder: Path, level: str = "auto", **options: Any) -> CoTBalTrainer:
    return CoTBalTrainer(
        model,
        arguments(folder, **{"steps": 1} | options),
        train_dataset=records(4),
        data_collator=collator(),
        weights=WEIGHTS,
        level=level,
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
    trainer = trainer_on(tiny_model(), tmp_path, level)
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
        copied = copy.deepcopy(model)
        check_refused(copied, tmp_path / "model.pt")
        with pytest.raises(ValueError, match="already has a loss of cotbal"):
            trainer_on(copied, tmp_path)
    check_saved(model, tmp_path / "model.pt")
    check_trained(copied, tmp_path)


@pytest.mark.parametrize("level", ["linear", "logits"])
def test_a_copy_of_a_patched_model_is_saved_whole_once_the_loss_is_off(tmp_path: Path, level: str) -> None:
    model = tiny_model()
    with cotbal.patch(model, weights=WEIGHTS, tasks=TASKS, denominator="micro", level=level):
        best = copy.deepcopy(model)
    check_saved(best, tmp_path / "model.pt")
    check_saved(copy.deepcopy(best), tmp_path / "model.pt")


def check_trained(model: Any, folder: Path, **options: Any) -> None:
    """A trainer on it trains its own parameters by Eq. 2, at the linear level."""
    start, by_hand = parameters(model), tiny_model()
    by_hand.load_state_dict(model.state_dict())
    trainer = trainer_on(model, folder, "linear", **options)
    trainer.train()
    reference, _ = expected(by_hand, [records(4)], WEIGHTS)
    assert deviation(parameters(model), reference, start) <= 1e-5


def test_a_copy_is_trained_and_saved_as_any_model(tmp_path: Path) -> None:
    """As a second stage from the best model so far: nothing could take the first trainer's loss off it."""
    first = trainer_on(tiny_model(), tmp_path)
    best, kept = copy.deepcopy(first.model), copy.deepcopy(first.model)
    before = parameters(first.model)
    check_refused(kept, tmp_path / "model.pt")
    check_trained(best, tmp_path)
    assert torch.equal(parameters(first.model), before)
    first.stop_balancing()
    check_saved(kept, tmp_path / "model.pt")
    # One that was loaded is trained at the linear level too.
    check_trained(torch.load(tmp_path / "model.pt", weights_only=False), tmp_path)


def test_a_model_whose_trainer_is_gone_is_saved_whole(tmp_path: Path) -> None:
    trainer = trainer_on(tiny_model(), tmp_path)
    model = trainer.model
    del trainer
    check_saved(copy.deepcopy(model), tmp_path / "copy.pt")
    check_saved(model, tmp_path / "model.pt")
    check_trained(copy.deepcopy(model), tmp_path)


def test_a_head_that_runs_as_another_one_has_no_linear_level(tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    model.lm_head.forward = other.lm_head.forward  # type: ignore[method-assign]
    assert trainer_on(model, tmp_path).installed.level == "logits"
