"""A window that is not what was counted for it: it adds nothing to a step, or is an error."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from cotbal.balancing import StaticWeights
from cotbal.integrations.huggingface import CoTBalMixin, CoTBalTrainer, install_loss
from cotbal.integrations.huggingface.collator import TASK_IDS, VALID_COUNT
from cotbal.normalizer import loss_factor
from cotbal.step_balance import StepBalance
from cotbal.step_loss import StepLoss
from tests.integrations.huggingface.training import (
    LEARNING_RATE,
    TASKS,
    WEIGHTS,
    InOrder,
    OrderedTrainer,
    Record,
    Stream,
    arguments,
    collator,
    deviation,
    expected,
    parameters,
    records,
    tiny_model,
)


class Sized(Stream):
    """A stream that says how long it is, and ends sooner."""

    def __init__(self, data: list[Record], length: int) -> None:
        super().__init__(data)
        self.length = length

    def __len__(self) -> int:
        return self.length


def trainer(folder: Path, cls: type, data: Any, **options: Any) -> Any:
    args, chosen = arguments(folder, 2, 3, steps=4), {"weights": WEIGHTS} | options
    return cls(tiny_model(), args, train_dataset=data, data_collator=collator(), **chosen)


def test_a_stream_that_ends_before_its_length_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """14 records where 16 are announced: two windows of 6, and a micro-batch that no step follows."""
    data, model = records(14), tiny_model()
    start = parameters(model)
    run = trainer(tmp_path, CoTBalTrainer, Sized(data, 16))
    with caplog.at_level(logging.WARNING, "cotbal"):
        run.train()
    reference, _ = expected(model, [data[:6], data[6:12]] * 2, WEIGHTS)
    assert deviation(parameters(run.model), reference, start) <= 1e-5
    assert "the last 1 micro-batches of the epoch are not trained on" in caplog.text


@pytest.mark.parametrize("data", [Stream(records(4)), Sized(records(4), 16)])
def test_data_shorter_than_one_window_is_an_error(tmp_path: Path, data: Stream) -> None:
    """Stock training makes a step of them; ours, which waits for the window, made none and said nothing."""
    run = trainer(tmp_path, CoTBalTrainer, data)
    with pytest.raises(ValueError, match=r"the 3 micro-batches of the first .*, got 2, .* use a smaller"):
        run.train()


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 asks for none, and warns")
def test_data_of_which_no_batch_is_left_is_an_error(tmp_path: Path) -> None:
    """A smaller window would not help where dataloader_drop_last leaves the only batch out."""
    args = arguments(tmp_path, batch=100, dataloader_drop_last=True)
    run = CoTBalTrainer(
        tiny_model(), args, train_dataset=records(8), data_collator=collator(), weights=WEIGHTS
    )
    with pytest.raises(ValueError, match=r"expected a micro-batch .*, got none; .* dataloader_drop_last out"):
        run.train()


def test_a_stream_that_runs_dry_after_a_step_ends_the_training(tmp_path: Path) -> None:
    """As stock training: what it has learned is not lost to an error."""

    class RunsDry(Stream):
        def __iter__(self) -> Iterator[Record]:
            given, self.data = self.data[:14], self.data[14:]
            return iter(given)

    run = trainer(tmp_path, CoTBalTrainer, RunsDry(records(16)))
    run.train()
    assert run.state.global_step == 2


def test_a_window_that_no_step_follows_is_an_error(tmp_path: Path) -> None:
    """Resumed within an epoch, a short window is trained on: older transformers ask for them there."""
    save = {"save_strategy": "steps", "save_steps": 1}

    def run(length: int, steps: int) -> Any:
        args = arguments(tmp_path, 2, 3, steps=steps, **save)
        data = Sized(records(14), length)
        return CoTBalTrainer(
            tiny_model(), args, train_dataset=data, data_collator=collator(), weights=WEIGHTS
        )

    run(18, 1).train()
    with pytest.raises(ValueError, match="expected an optimizer step after each window, got none after the"):
        run(18, 4).train(resume_from_checkpoint=True)


class StopsTheEpoch(TrainerCallback):
    """Once, after the first micro-batch of the second window."""

    has_stopped = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and not self.has_stopped:
            self.has_stopped = control.should_epoch_stop = True


class MasksLabels(Trainer):
    """Changes what is trained on after it was counted."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs["labels"] = inputs["labels"].clone().index_fill_(1, torch.arange(4), -100)
        return super().compute_loss(model, inputs, *args, **kwargs)


class MasksLabelsBalanced(CoTBalMixin, MasksLabels):
    pass


class MasksAsItDraws(Trainer):
    """Trains on no record's first four labels."""

    def get_batch_samples(self, *args: Any) -> Any:
        batches, n_items = super().get_batch_samples(*args)
        for batch in batches:
            batch["labels"][:, :4] = -100
        return batches, n_items


def test_what_a_trainer_of_ones_own_draws_is_counted_and_trained_on(tmp_path: Path) -> None:
    data, model = records(18), tiny_model()
    run = trainer(tmp_path, type("Mixed", (InOrder, CoTBalMixin, MasksAsItDraws), {}), data)
    run.train()
    start = parameters(model)
    masked = [each | {"labels": [-100] * 4 + each["labels"][4:]} for each in data]
    reference, _ = expected(model, [masked[:6], masked[6:12], masked[12:], masked[:6]], WEIGHTS)
    assert deviation(parameters(run.model), reference, start) <= 1e-5


class LeavesOneOut(OrderedTrainer):
    """As those do that go on after running out of memory."""

    calls, left_out = 0, 2

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return torch.zeros(()) if self.calls == self.left_out else super().training_step(*args, **kwargs)


@pytest.mark.parametrize(
    ("cls", "callbacks"),
    [(OrderedTrainer, [StopsTheEpoch()]), (MasksLabelsBalanced, None), (LeavesOneOut, None)],
)
def test_a_step_that_trains_on_other_tokens_than_were_counted_is_an_error(
    tmp_path: Path, cls: type, callbacks: Any
) -> None:
    run = trainer(tmp_path, cls, records(18), callbacks=callbacks)
    with pytest.raises(ValueError, match="expected the step before to train once on the tokens that were"):
        run.train()


def accumulates(event: str, from_step: int, accumulation: int) -> TrainerCallback:
    """Sets another gradient_accumulation_steps at the event, from that step on."""

    def change(_: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= from_step:
            args.gradient_accumulation_steps = accumulation

    return type("Accumulates", (TrainerCallback,), {event: change})()


def run_accumulating(folder: Path, accumulation: int, callback: TrainerCallback) -> Any:
    """20 micro-batches an epoch, of which there are two."""
    args = arguments(folder, 2, accumulation, steps=40 // accumulation, logging_strategy="no")
    options = {"data_collator": collator(), "weights": WEIGHTS, "callbacks": [callback]}
    run = OrderedTrainer(tiny_model(), args, train_dataset=records(40), **options)
    run.train()
    return run


def test_a_step_within_a_window_is_an_error(tmp_path: Path) -> None:
    """Nothing was told where it was not logged: it was 32 % off, and half a window went into the next."""
    with pytest.raises(ValueError, match=r"step 2: expected it after .* Leave gradient_accumulation_steps "):
        run_accumulating(tmp_path, 4, accumulates("on_substep_end", from_step=1, accumulation=1))


@pytest.mark.parametrize(
    ("event", "from_step"),
    [("on_train_begin", 0), ("on_step_end", 1), ("on_epoch_end", 1), ("on_epoch_begin", 10)],
)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_another_accumulation_within_a_training_is_an_error(
    tmp_path: Path, event: str, from_step: int, accumulation: int
) -> None:
    """The steps of an epoch are planned at the start: data was left out, and its length was blamed."""
    callback = accumulates(event, from_step, accumulation)
    message = rf"gradient_accumulation_steps: expected 2, .* got {accumulation} after step {from_step and 1}"
    with pytest.raises(ValueError, match=message):
        run_accumulating(tmp_path, 2, callback)


def test_another_accumulation_between_trainings_is_none(tmp_path: Path) -> None:
    run = run_accumulating(tmp_path, 2, TrainerCallback())
    run.args.gradient_accumulation_steps, run.args.max_steps = 4, 10
    run.train()
    assert run.state.global_step == 10


class LeavesTheLastOut(LeavesOneOut):
    """The last of the 12 micro-batches, after which no step comes."""

    left_out = 12


@pytest.mark.parametrize(
    "options",
    [
        {"logging_strategy": "no"},
        {"logging_steps": 4},
        {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 4},
    ],
)
def test_the_last_step_is_checked_as_well(tmp_path: Path, options: dict[str, Any]) -> None:
    """At the end, or before it is logged or saved."""
    run = trainer(tmp_path, LeavesTheLastOut, records(24))
    for name, value in options.items():
        setattr(run.args, name, value)
    with pytest.raises(ValueError, match="expected the step before to train once on the tokens that were"):
        run.train()
    assert (run.calls, run.state.global_step) == (12, 4)
    assert not [entry for entry in run.state.log_history if "task_loss/short" in entry]
    assert not [*tmp_path.glob("checkpoint-*")]


def test_a_training_that_stops_within_a_window_is_none(tmp_path: Path) -> None:
    """Its gradients are dropped, and a second training starts from what its steps left."""

    class Stops(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 1

    data, model = records(24), tiny_model()
    start = parameters(model)
    run = trainer(tmp_path, OrderedTrainer, data, callbacks=[Stops()])
    run.train()
    run.remove_callback(Stops)
    run.train()
    windows = [data[first : first + 6] for first in (0, 6, 12, 18)]
    reference, _ = expected(model, [data[:6], *windows], WEIGHTS)
    assert deviation(parameters(run.model), reference, start) <= 1e-5


def test_a_loop_of_ones_own_over_accelerates_accumulation() -> None:
    """20 records, 2 to a micro-batch, 3 micro-batches to a window: the last window is of one alone."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, step_loss = tiny_model(), StepLoss(2)
    balance = StepBalance(TASKS, StaticWeights(WEIGHTS), step_loss)
    install_loss(model, step_loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    data, reference = records(20), tiny_model()
    start = parameters(reference)
    loader = DataLoader(data, batch_size=2, collate_fn=collator())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = [*loader]
    for first in range(0, len(batches), 3):
        window = batches[first : first + 3]
        for batch in window:
            balance.normalizer.add(batch["labels"], batch[TASK_IDS])
        balance.begin_step(loss_factor("accelerate", ranks=1, accumulation=3))
        balance.check_trained()
        for batch in window:
            task_ids, _ = batch.pop(TASK_IDS), batch.pop(VALID_COUNT)
            with step_loss.micro_batch(task_ids):
                accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
    windows = [data[first : first + 6] for first in range(0, 20, 6)]
    moved, _ = expected(reference, windows, WEIGHTS)
    assert deviation(parameters(model), moved, start) <= 1e-5


def test_a_weight_of_0_is_none(tmp_path: Path) -> None:
    """Its tokens are not read, and the sums do not have them."""
    run = trainer(tmp_path, CoTBalTrainer, records(24), weights={"short": 0.0, "long": 1.0})
    run.train()
    assert run.state.global_step == 4
