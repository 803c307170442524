"""A patched Trainer is a CoTBalTrainer until it is taken off, and then what it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

import cotbal
from cotbal.balancing import DWA
from cotbal.integrations.huggingface import (
    CoTBalMixin,
    CoTBalTrainer,
    TaskCollator,
    TaskLogCallback,
    patching,
)
from tests.integrations.huggingface.level_cases import build
from tests.integrations.huggingface.training import (
    LEARNING_RATE,
    TASKS,
    WEIGHTS,
    InOrder,
    OrderedTrainer,
    arguments,
    collator,
    deviation,
    expected,
    pad,
    parameters,
    records,
    tiny_model,
)


class Plain(InOrder, Trainer):
    """A trainer of one's own; it knows nothing of tasks."""


@pytest.fixture(autouse=True)
def nothing_stays_patched() -> Iterator[None]:
    yield
    cotbal.unpatch()


def plain(folder: Path, cls: type = Plain, **options: Any) -> Any:
    chosen = {"data_collator": pad, "train_dataset": records(24)} | options
    chosen.setdefault("args", arguments(folder, 4, 2, steps=3))
    return cls(chosen.pop("model", None) or tiny_model(), **chosen)


def train(trainer: Any) -> tuple[Tensor, list[float], list[dict[str, Any]]]:
    """Parameters, the losses of the micro-batches, and what was logged."""
    trainer.train()
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    history = [
        {key: value for key, value in entry.items() if key not in timed}
        for entry in trainer.state.log_history
    ]
    return parameters(trainer.model), [loss.item() for loss in getattr(trainer, "losses", [])], history


def same(actual: Any, expected: Any) -> None:
    assert torch.equal(actual[0], expected[0])
    assert actual[1:] == expected[1:]


@pytest.mark.parametrize("level", ["auto", "logits"])
def test_a_patched_trainer_is_a_cotbal_trainer(tmp_path: Path, level: str) -> None:
    ours = OrderedTrainer(
        tiny_model(),
        arguments(tmp_path, 4, 2, steps=3),
        train_dataset=records(24),
        data_collator=collator(),
        weights=WEIGHTS,
        level=level,
    )
    patched = plain(tmp_path)
    cotbal.patch(patched, weights=WEIGHTS, level=level)
    assert isinstance(patched, CoTBalMixin)
    assert patched.installed.level == ours.installed.level
    outcome = train(patched)
    assert "task_loss/short" in str(outcome[2])
    same(outcome, train(ours))
    # And not what it would have been.
    untouched = train(plain(tmp_path))
    assert deviation(outcome[0], untouched[0], parameters(tiny_model())) > 0.05


def test_the_stock_trainer_becomes_the_class_itself(tmp_path: Path) -> None:
    patched = plain(tmp_path, Trainer)
    handle = cotbal.patch(patched, weights=WEIGHTS)
    assert type(patched) is CoTBalTrainer
    assert "Trainer: trains as CoTBalTrainer, with the denominator of the step" in repr(handle)
    ours = CoTBalTrainer(
        tiny_model(),
        arguments(tmp_path, 4, 2, steps=3),
        train_dataset=records(24),
        data_collator=collator(),
        weights=WEIGHTS,
    )
    same(train(patched), train(ours))


def test_after_unpatch_it_is_the_untouched_trainer(tmp_path: Path) -> None:
    patched = plain(tmp_path)
    before, callbacks = dict(vars(patched)), list(patched.callback_handler.callbacks)
    modules = {name: dict(vars(module)) for name, module in patched.model.named_modules()}
    handle = cotbal.patch(patched, weights=WEIGHTS)
    assert any(isinstance(each, TaskLogCallback) for each in patched.callback_handler.callbacks)
    handle.unpatch()
    assert type(patched) is Plain
    assert vars(patched).keys() == before.keys()
    assert all(vars(patched)[name] is value for name, value in before.items())
    assert patched.callback_handler.callbacks == callbacks
    for name, module in patched.model.named_modules():
        assert vars(module).keys() == modules[name].keys()
        assert all(vars(module)[key] is value for key, value in modules[name].items())
    same(train(patched), train(plain(tmp_path)))


def test_it_is_taken_off_after_training_as_well(tmp_path: Path) -> None:
    patched, untouched = plain(tmp_path), plain(tmp_path)
    with cotbal.patch(patched, weights=WEIGHTS):
        patched.train()
    untouched.train()
    assert (type(patched), vars(patched).keys()) == (Plain, vars(untouched).keys())
    assert patched.data_collator is pad
    patched.model.load_state_dict(tiny_model().state_dict())
    untouched.model.load_state_dict(tiny_model().state_dict())
    patched.losses, untouched.losses = [], []
    same(train(patched)[:2], train(untouched)[:2])


def test_without_weights_all_are_1_and_each_task_has_its_curve(tmp_path: Path) -> None:
    patched, model = plain(tmp_path), tiny_model()
    cotbal.patch(patched, tasks=TASKS)
    start, data = parameters(model), records(24)
    actual, _, history = train(patched)
    reference, _ = expected(model, [data[:8], data[8:16], data[16:]], dict.fromkeys(TASKS, 1.0))
    assert deviation(actual, reference, start) <= 1e-5
    curves = [entry for entry in history if "task_loss/short" in entry]
    assert len(curves) == 3
    assert {entry[f"task_weight/{name}"] for entry in curves for name in TASKS} == {1.0}


def test_a_task_collator_stays_and_gives_the_names(tmp_path: Path) -> None:
    own = collator()
    patched = plain(tmp_path, data_collator=own)
    handle = cotbal.patch(patched)
    assert patched.data_collator is own
    assert patched.tasks == TASKS
    assert "data_collator: left as it is" in repr(handle)
    train(patched)
    handle.unpatch()
    assert patched.data_collator is own
    other = plain(tmp_path)
    assert "data_collator: wrapped in a TaskCollator" in repr(cotbal.patch(other, weights=WEIGHTS))


def test_a_list_of_weights_is_in_the_order_of_the_task_collators_tasks(tmp_path: Path) -> None:
    file = tmp_path / "weights.json"
    file.write_text("[0.25, 4.0]")
    for weights in ([0.25, 4.0], file):
        patched = plain(tmp_path, data_collator=TaskCollator(pad, TASKS[::-1]))
        cotbal.patch(patched, weights=weights)
        assert dict(patched.weighting.given) == {"long": 0.25, "short": 4.0}
        assert patched.tasks == TASKS[::-1]
    with pytest.raises(ValueError, match=r"tasks: expected the names of the list's 2 weights .*, got none"):
        cotbal.patch(plain(tmp_path), weights=[0.25, 4.0])


def test_a_collator_whose_ids_nothing_names_is_refused(tmp_path: Path) -> None:
    """With the weights in another order each task had another's weight."""

    def numbers(features: list[dict[str, Any]]) -> dict[str, Tensor]:
        return pad(features) | {"cotbal_task_ids": torch.tensor([each["number"] for each in features])}

    data = [
        {"number": TASKS.index(each["task"]), **{key: each[key] for key in ("input_ids", "labels")}}
        for each in records(24)
    ]
    options = {"data_collator": numbers, "train_dataset": data}
    reordered = dict(reversed(WEIGHTS.items()))
    refused = plain(tmp_path, **options)
    cotbal.patch(refused, weights=reordered)
    with pytest.raises(
        ValueError, match=r"tasks: expected .* cotbal_task_ids .*; pass tasks=\[\.\.\.\] in the"
    ):
        refused.train()
    named, read = plain(tmp_path, **options), plain(tmp_path)
    cotbal.patch(named, weights=reordered, tasks=TASKS)
    cotbal.patch(read, weights=reordered)
    assert read.tasks == TASKS[::-1]
    assert torch.equal(train(named)[0], train(read)[0])


def test_weights_may_change_with_the_steps(tmp_path: Path) -> None:
    patched = plain(tmp_path, args=arguments(tmp_path, 4, 2, steps=4))
    cotbal.patch(patched, weights=DWA(window=1), tasks=TASKS)
    weights = [entry["task_weight/short"] for entry in train(patched)[2] if "task_weight/short" in entry]
    assert weights[:2] == [1.0, 1.0]
    assert len(set(weights[1:])) == 3


def test_callbacks_of_ones_own_stay(tmp_path: Path) -> None:
    mine = TrainerCallback()
    patched = plain(tmp_path, callbacks=[mine])
    other = TaskLogCallback(patched)
    patched.add_callback(other)
    handle = cotbal.patch(patched, weights=WEIGHTS)
    handle.unpatch()
    assert mine in patched.callback_handler.callbacks
    assert other in patched.callback_handler.callbacks


def pictures(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {key: torch.stack([each[key] for each in features]) for key in features[0]}


def test_a_llava_of_transformers_trains_by_eq_2(tmp_path: Path) -> None:
    """Two micro-batches of one record each, of other tasks and numbers of labels."""
    model, batch = build("LlavaForConditionalGeneration")
    twin = build("LlavaForConditionalGeneration")[0].double()
    batch["labels"][1, ::2] = -100
    data = [{key: value[row] for key, value in batch.items()} | {"task": TASKS[row]} for row in (0, 1)]
    args = arguments(tmp_path, 1, 2, steps=1)
    trainer = plain(tmp_path, model=model, args=args, train_dataset=data, data_collator=pictures)
    start = parameters(model)
    handle = cotbal.patch(trainer, weights=WEIGHTS)
    assert "LlavaForConditionalGeneration: linear level" in repr(handle)
    actual, losses, _ = train(trainer)
    loss = eq2(twin, batch, torch.tensor([0, 1]))
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter -= LEARNING_RATE * parameter.grad
    assert sum(losses) == pytest.approx(loss.item(), rel=2e-6)
    assert deviation(actual, parameters(twin), start) <= 1e-5


def eq2(model: Any, batch: dict[str, Tensor], task_ids: Tensor) -> Tensor:
    """Eq. 2 from the model's logits, in float64."""
    own = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    labels = own.pop("labels")[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        model(**own).logits[:, :-1].transpose(1, 2), labels, reduction="none"
    )
    weights = torch.tensor([*WEIGHTS.values()], dtype=torch.float64)[task_ids][:, None] * (labels != -100)
    return (weights * losses).sum() / weights.sum()


class Remembers(TrainerCallback):
    """Has nothing to do with it."""


@pytest.mark.parametrize(
    ("trainer_options", "options", "message"),
    [
        ({}, {}, r"tasks: expected the task names .* got none; pass tasks=\[\.\.\.\]"),
        ({}, {"weights": DWA(window=2)}, r"tasks: expected the task names .* pass tasks=\[\.\.\.\]"),
        ({}, {"weights": WEIGHTS, "denominator": "world"}, "denominator: expected 'step' with a Trainer"),
        ({}, {"weights": WEIGHTS, "denominator": "micro"}, "denominator: expected 'step' with a Trainer"),
        ({}, {"tasks": {"a.json": "short"}}, "got a mapping from file to task.*TaskCollator"),
        ({}, {"weights": WEIGHTS, "tasks": ["short", "lang"]}, r"no weight for task 'lang' \(did you mean"),
        (
            {"data_collator": TaskCollator(pad, TASKS[::-1])},
            {"weights": WEIGHTS, "tasks": TASKS},
            "tasks: expected the collator's long, short in that order, got short, long",
        ),
        (
            {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.loss},
            {"weights": WEIGHTS},
            "compute_loss_func: expected None",
        ),
    ],
)
def test_what_is_refused_leaves_the_trainer_as_it_was(
    tmp_path: Path, trainer_options: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    trainer = plain(tmp_path, callbacks=[Remembers], **trainer_options)
    before, callbacks = dict(vars(trainer)), list(trainer.callback_handler.callbacks)
    with pytest.raises(ValueError, match=message):
        cotbal.patch(trainer, **options)
    assert type(trainer) is Plain
    assert vars(trainer).keys() == before.keys()
    assert all(vars(trainer)[name] is value for name, value in before.items())
    assert trainer.callback_handler.callbacks == callbacks
    assert "forward" not in vars(trainer.model)


def test_arguments_that_drop_the_tasks_are_refused_with_the_remedy(tmp_path: Path) -> None:
    trainer = plain(tmp_path, args=arguments(tmp_path, remove_unused_columns=True))
    with pytest.raises(ValueError, match="remove_unused_columns: expected False, got True"):
        cotbal.patch(trainer, weights=WEIGHTS)
    assert type(trainer) is Plain


def test_a_trainer_that_is_balanced_already(tmp_path: Path) -> None:
    ours = OrderedTrainer(
        tiny_model(), arguments(tmp_path), train_dataset=records(8), data_collator=collator(), weights=WEIGHTS
    )
    with pytest.raises(ValueError, match="without the balanced loss, got a OrderedTrainer, which has it"):
        cotbal.patch(ours, weights=WEIGHTS)
    with pytest.raises(ValueError, match=r"already has a loss of cotbal; call restore\(\) or unpatch\(\)"):
        cotbal.patch(ours.model, weights=WEIGHTS, tasks=TASKS, denominator="micro")
    assert isinstance(ours.model.loss_function.position.step_loss, type(ours.step_loss))


def test_a_collator_that_was_put_over_ours_is_told(tmp_path: Path) -> None:
    trainer = plain(tmp_path)
    handle = cotbal.patch(trainer, weights=WEIGHTS)
    ours, trainer.data_collator = trainer.data_collator, collator()
    with pytest.raises(ValueError, match=r"Plain\.data_collator was replaced after cotbal\.patch\(\)"):
        handle.unpatch()
    assert isinstance(trainer, CoTBalMixin), "still on, and all of it"
    trainer.data_collator = ours
    handle.unpatch()
    assert type(trainer) is Plain


@pytest.mark.parametrize("found", ["4.37.2", "4.51.3"])
def test_a_transformers_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(patching, "version", lambda name: found)
    with pytest.raises(
        ImportError, match=rf"transformers: expected 4\.52 or newer .* got {found}; upgrade it"
    ):
        cotbal.patch(plain(tmp_path), weights=WEIGHTS)


def test_the_oldest_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "version", lambda name: "4.52.dev0")
    assert cotbal.patch(plain(tmp_path), weights=WEIGHTS) is not None
