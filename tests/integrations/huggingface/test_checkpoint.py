"""A rule's state travels with the checkpoint, the sums of the closing step included."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset
from torchjd.scalarization import STCH
from transformers import Trainer, TrainerCallback

from cotbal.balancing import DWA, RLW, TLA, TorchJDWeighting
from cotbal.integrations.huggingface.checkpoint import load_weighting
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.training import (
    WEIGHTS,
    OrderedTrainer,
    arguments,
    collator,
    pad,
    parameters,
    records,
    tiny_model,
)

FILE = "cotbal_weighting.json"


def trainer(folder: Path, weights: Any, steps: int, **options: Any) -> OrderedTrainer:
    args = arguments(folder, 4, 2, steps, save_strategy="steps", save_steps=3, **options)
    return OrderedTrainer(
        tiny_model(), args, train_dataset=records(24), data_collator=collator(), weights=weights
    )


def weights_of(run: OrderedTrainer) -> list[list[float]]:
    logged = [entry for entry in run.state.log_history if "task_weight/short" in entry]
    return [[entry[f"task_weight/{name}"] for name in WEIGHTS] for entry in logged]


@pytest.mark.parametrize("logging_strategy", ["steps", "no"])
def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path: Path, logging_strategy: str) -> None:
    """Logging closes a step, too: without it only the checkpoint does. AdamW has a state of its own."""
    options = {"logging_strategy": logging_strategy, "optim": "adamw_torch", "learning_rate": 0.01}
    unbroken = trainer(tmp_path / "unbroken", DWA(window=1), 6, **options)
    unbroken.train()
    trainer(tmp_path / "broken", DWA(window=1), 3, **options).train()
    resumed = trainer(tmp_path / "broken", DWA(window=1), 6, **options)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(parameters(resumed.model), parameters(unbroken.model))
    resumed.flush()
    unbroken.flush()
    assert resumed.weighting.state_dict() == unbroken.weighting.state_dict()
    assert weights_of(resumed) == weights_of(unbroken)
    if logging_strategy == "no":
        return
    # Weights that are 1, or always the same, would be equal without a state.
    assert len({tuple(weights) for weights in weights_of(unbroken)[2:]} | {(1.0, 1.0)}) == 5


def test_the_curves_of_a_run_resumed_between_two_loggings_lack_no_step(tmp_path: Path) -> None:
    unbroken = trainer(tmp_path / "unbroken", WEIGHTS, 4, logging_steps=2)
    unbroken.train()
    trainer(tmp_path / "broken", WEIGHTS, 3, logging_steps=2).train()
    resumed = trainer(tmp_path / "broken", WEIGHTS, 4, logging_steps=2)
    resumed.train(resume_from_checkpoint=True)
    expected, came = (
        [{key: log[key] for key in log if key.startswith("task_")} for log in run.state.log_history]
        for run in (unbroken, resumed)
    )
    assert any(expected)
    assert came == expected


def test_saving_changes_nothing(tmp_path: Path) -> None:
    """A flush at a checkpoint hands each step's sums over once."""
    saving, silent = trainer(tmp_path, DWA(window=1), 6), trainer(tmp_path, DWA(window=1), 6)
    silent.args.save_strategy = "no"
    saving.train()
    silent.train()
    saving.flush()
    silent.flush()
    saving.flush()
    assert saving.weighting.step == 6
    assert saving.weighting.state_dict() == silent.weighting.state_dict()


def test_a_second_training_starts_afresh(tmp_path: Path) -> None:
    run = trainer(tmp_path, DWA(window=1), 4)
    run.train()
    first = weights_of(run)
    run.train()
    assert weights_of(run)[:2] == first[:2] == [[1.0, 1.0]] * 2
    assert run.weighting.step == 4, "that of the second training alone"


def test_a_rule_of_another_kind_or_without_its_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, DWA(window=1), 3).train()
    with pytest.raises(ValueError, match="expected a state whose 'rule' is 'RLW', got 'DWA'"):
        trainer(tmp_path, RLW(), 6).train(resume_from_checkpoint=True)
    path = tmp_path / "checkpoint-3" / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(
        ValueError, match="expected schema_version 1, got 2; resume with the version of cotbal"
    ):
        trainer(tmp_path, DWA(window=1), 6).train(resume_from_checkpoint=True)
    path.unlink()
    with pytest.raises(ValueError, match=f"expected {FILE} in .*checkpoint-3, got none; a run of DWA"):
        trainer(tmp_path, DWA(window=1), 6).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the state of a rule, a JSON object, got"),
        ("[]", "expected the state of a rule, a JSON object, got list"),
        ('{"schema_version": 1}', "expected the whole state of a DWA, got a part of it"),
    ],
)
def test_a_state_that_is_broken_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    balance = StepBalance(list(WEIGHTS), DWA(window=1), StepLoss(len(WEIGHTS)))
    with pytest.raises(ValueError, match=f"{FILE}: {message}.* resume from another checkpoint"):
        load_weighting(balance, tmp_path)


class SavesWithin(TrainerCallback):
    """Saves and stops before the fourth optimizer step is done, as transformers does on SIGTERM."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.save)

    def save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            control.should_training_stop = True
            self.trainer.flush()
            self.trainer._save_checkpoint(self.trainer.model, trial=None)


@pytest.mark.parametrize(
    ("event", "rule"), [("on_step_begin", RLW), ("on_pre_optimizer_step", lambda: DWA(window=1))]
)
def test_a_checkpoint_within_a_window_is_that_of_the_step_before(
    tmp_path: Path, event: str, rule: Any
) -> None:
    unbroken = trainer(tmp_path / "unbroken", rule(), 5, logging_strategy="no")
    unbroken.args.save_strategy = "no"
    unbroken.train()
    stopped = trainer(tmp_path / "stopped", rule(), 5, logging_strategy="no")
    stopped.args.save_strategy = "no"
    callback = SavesWithin(event)
    callback.trainer = stopped
    stopped.add_callback(callback)
    stopped.train()
    resumed = trainer(tmp_path / "stopped", rule(), 5, logging_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(parameters(resumed.model), parameters(unbroken.model))
    resumed.flush()
    unbroken.flush()
    assert resumed.weighting.state_dict() == unbroken.weighting.state_dict()


def test_a_plain_trainers_checkpoint_serves_constant_weights(tmp_path: Path) -> None:
    args = arguments(tmp_path, 4, 2, 3, save_strategy="steps", save_steps=3)
    data = [{key: record[key] for key in ("input_ids", "labels")} for record in records(24)]
    Trainer(tiny_model(), args, train_dataset=data, data_collator=pad).train()
    resumed = trainer(tmp_path, WEIGHTS, 6)
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.losses) == 6


def test_an_empty_task_in_a_step_is_no_loss_of_0(tmp_path: Path) -> None:
    """TLA has no state but reads the counts: all data of one task gives that task weight 1."""
    data = [record for record in records(24) if record["task"] == "short"]
    run = OrderedTrainer(
        tiny_model(),
        arguments(tmp_path, 4, 2, 2),
        train_dataset=data,
        data_collator=collator(),
        weights=TLA(),
    )
    run.train()
    logged = [entry for entry in run.state.log_history if "task_weight/short" in entry]
    assert [entry["task_weight/short"] for entry in logged] == [1.0, 1.0]
    assert not any("task_loss/long" in entry for entry in logged)


def searching(folder: Path) -> OrderedTrainer:
    args = arguments(folder, 4, 2, 3, save_strategy="steps", save_steps=3)
    return OrderedTrainer(
        args=args,
        model_init=lambda: tiny_model(),
        train_dataset=records(24),
        data_collator=collator(),
        weights=DWA(window=1),
    )


def state_of(folder: Path, number: int | None = None) -> Any:
    run = folder if number is None else folder / f"run-{number}"
    return json.loads((run / "checkpoint-3" / FILE).read_text())["state"]


def test_a_search_by_optuna(tmp_path: Path) -> None:
    """Each trial starts afresh: the first is as it would be alone."""
    alone, run = searching(tmp_path / "alone"), searching(tmp_path)
    run.eval_dataset, rates = records(4), iter([0.1, 0.01])
    best = run.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("rate", *[next(rates)] * 2)}, n_trials=2
    )
    alone.train()
    assert best.run_id == "0"
    assert state_of(tmp_path, 0) == state_of(tmp_path / "alone") != state_of(tmp_path, 1)
    assert state_of(tmp_path, 1)["step"] == 3
    assert not [*tmp_path.glob("checkpoint-*")]


class RunsOutOfMemory(OrderedTrainer):
    """In its second step, once."""

    has_memory = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        if len(self.losses) == 3 and not self.has_memory:
            self.has_memory = True
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss


def test_a_smaller_batch_after_running_out_of_memory_starts_afresh(tmp_path: Path) -> None:
    def run(cls: type[OrderedTrainer], batch: int, folder: str, **options: Any) -> Any:
        args = arguments(tmp_path / folder, batch, 2, 4, **options)
        made = cls(
            tiny_model(),
            args,
            train_dataset=records(24),
            data_collator=collator(),
            weights=DWA(window=1),
        )
        made.train()
        made.flush()
        return made

    failed = run(RunsOutOfMemory, 4, "failed", auto_find_batch_size=True)
    smaller = run(OrderedTrainer, failed._train_batch_size, "smaller")
    assert failed.has_memory
    assert failed.weighting.step == smaller.weighting.step == 4
    tokens = [
        [entry[f"task_tokens/{name}"] for entry in each.state.log_history if "task_loss/short" in entry]
        for each in (failed, smaller)
        for name in WEIGHTS
    ]
    assert tokens[:2] == tokens[2:]
    # The parameters went on from where the first attempt left them.
    assert weights_of(failed)[:2] == weights_of(smaller)[:2] == [[1.0, 1.0]] * 2


def test_a_batch_that_was_refused_counts_nowhere(tmp_path: Path) -> None:
    data = records(8)
    broken = [*data[:4], *({key: r[key] for key in ("input_ids", "labels")} for r in data[4:])]
    again, fresh = trainer(tmp_path, WEIGHTS, 1), trainer(tmp_path, WEIGHTS, 1)
    # Records of a list would be refused before the first step.
    again.train_dataset = Subset(broken, range(len(broken)))
    with pytest.raises(ValueError, match="cotbal_task_ids"):
        again.train()
    again.train_dataset = fresh.train_dataset = data
    again.train()
    fresh.train()
    assert torch.equal(parameters(again.model), parameters(fresh.model))


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_a_rule_that_cannot_be_saved_is_told_before_the_first_step(
    tmp_path: Path, save_strategy: str
) -> None:
    """Where nothing is saved it trains."""
    scalarizer = STCH(1.0)
    scalarizer.memory = {1.5, 2.5}
    run = trainer(tmp_path, TorchJDWeighting(scalarizer), 1)
    run.args.save_strategy = save_strategy
    if save_strategy == "no":
        run.train()
    else:
        with pytest.raises(TypeError, match=r"\['memory'\]: expected tensors, numbers, .* got set"):
            run.train()
    assert run.state.global_step == int(save_strategy == "no")


def test_a_resumed_run_that_ends_within_its_epoch_leaves_no_loading_process(tmp_path: Path) -> None:
    """The Trainer's own are gone with its iterator, which nothing may hold."""
    trainer(tmp_path, WEIGHTS, 3).train()
    before = {*multiprocessing.active_children()}
    run = trainer(tmp_path, WEIGHTS, 4, dataloader_num_workers=1)
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 4
    assert {*multiprocessing.active_children()} == before
