"""Outside of training everything is the trainer's own: evaluation, generation, a loss asked for by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from cotbal.integrations.huggingface import CoTBalMixin, CoTBalTrainer
from tests.integrations.huggingface.training import (
    WEIGHTS,
    arguments,
    collator,
    pad,
    records,
    tiny_model,
)


def test_evaluation_and_generation_are_the_trainers_own(tmp_path: Path) -> None:
    data = records(12)
    without_tasks = [{key: record[key] for key in ("input_ids", "labels")} for record in data]
    args = arguments(tmp_path, steps=1, per_device_eval_batch_size=5)
    plain = Trainer(tiny_model(), args, data_collator=pad)
    ours = CoTBalTrainer(tiny_model(), args, data_collator=collator(), weights=WEIGHTS, train_dataset=data)
    theirs = plain.evaluate(without_tasks)["eval_loss"]
    # On tasks without a weight too, and where some records have none.
    held_out = [record | ({"task": "mmlu"} if number % 3 else {}) for number, record in enumerate(data)]
    some = [
        record if number % 3 else bare
        for number, (record, bare) in enumerate(zip(data, without_tasks, strict=True))
    ]
    for dataset in (data, without_tasks, held_out, some):
        assert ours.evaluate(dataset)["eval_loss"] == theirs
    assert (ours.predict(held_out).predictions == ours.predict(data).predictions).all()
    outputs = plain.predict(without_tasks), ours.predict(data)
    assert (outputs[0].predictions == outputs[1].predictions).all()
    assert outputs[1].predictions.shape[-1] == 48
    prompt = {"input_ids": torch.tensor([[5, 6, 7]]), "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(plain.model.generate(**prompt), ours.model.generate(**prompt))
    # During training as well.
    eval_args = arguments(tmp_path, steps=2, eval_strategy="steps", eval_steps=1)
    trainer = CoTBalTrainer(
        tiny_model(),
        eval_args,
        data_collator=collator(),
        weights=WEIGHTS,
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert logged[-1] == trainer.evaluate()["eval_loss"]
    trainer.installed.restore()
    assert logged[-1] == trainer.evaluate()["eval_loss"]


class HandsOn(Trainer):
    """A user's trainer that hands on what it does not know."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, return_outputs, **kwargs)


class ByName(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch, **kwargs)


class WithoutOutputs(Trainer):
    """It is evaluated by the loss alone."""

    def compute_loss(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        assert num_items_in_batch is not False
        return super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.compute_loss(model, inputs), None, None


@pytest.mark.parametrize("own", [HandsOn, ByName, WithoutOutputs])
def test_a_trainer_of_ones_own_is_evaluated_too(tmp_path: Path, own: type) -> None:
    """It trained, and ended in a TypeError at its first evaluation."""
    data, mixed = records(12), type("Mixed", (CoTBalMixin, own), {})
    args, options = arguments(tmp_path, steps=1), {"data_collator": collator(), "train_dataset": data}
    run = mixed(tiny_model(), args, weights=WEIGHTS, **options)
    run.train()
    without_tasks = [{key: record[key] for key in ("input_ids", "labels")} for record in data]
    # Its own: transformers 4.57's prediction_step divides by the labels before the shift, this one does not.
    theirs = own(run.model, args, data_collator=pad)
    assert run.evaluate(data)["eval_loss"] == theirs.evaluate(without_tasks)["eval_loss"]


class PredictsByItself(Trainer):
    """A user's trainer whose prediction_step is its own."""

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.compute_loss(model, inputs), None, None


class OursPredictsByItself(CoTBalMixin, PredictsByItself):
    # Past the mixin's, which takes the ids out.
    prediction_step = PredictsByItself.prediction_step


def test_outside_of_training_compute_loss_is_the_trainers_own(tmp_path: Path) -> None:
    """Under the denominator of the step before it would be another number; between steps a false error."""
    data, held_out = records(24), records(12, seed=5)
    args = arguments(tmp_path, 4, 2, steps=2, eval_strategy="steps", eval_steps=1)
    options = {"data_collator": collator(), "weights": WEIGHTS, "eval_dataset": held_out}
    ours = OursPredictsByItself(tiny_model(), args, train_dataset=data, **options)
    ours.train()
    by_hand = ours.compute_loss(ours.model.eval(), collator()(data[:4]))
    ours.stop_balancing()
    theirs = PredictsByItself(ours.model, arguments(tmp_path), data_collator=pad)
    logged = [entry["eval_loss"] for entry in ours.state.log_history if "eval_loss" in entry]
    without_tasks = [{key: record[key] for key in ("input_ids", "labels")} for record in held_out]
    assert logged[-1] == theirs.evaluate(without_tasks)["eval_loss"]
    assert by_hand.item() == theirs.compute_loss(theirs.model.eval(), pad(data[:4])).item()
