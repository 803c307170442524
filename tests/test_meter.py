"""What the meter reads: means over the tokens of several steps, not means of the steps' means."""

import json
import weakref
from functools import partial

import pytest
import torch

from cotbal import TaskStats
from cotbal.meter import TaskMeter
from tests.examples import check_examples


def sums(loss: list[float], tokens: list[int], correct: list[int]) -> TaskStats:
    return TaskStats(torch.tensor(loss), torch.tensor(tokens), torch.tensor(correct))


def test_it_reads_means_over_the_tokens_and_starts_anew() -> None:
    meter = TaskMeter(["a", "b", "c"])
    meter.add(sums([6.0, 1.0, 0.0], [2, 10, 0], [1, 5, 0]), torch.tensor([0.5, 1.0, 1.5]))
    meter.add(sums([1.0, 0.0, 0.0], [6, 0, 0], [3, 0, 0]), torch.tensor([1.5, 0.0, 0.5]))
    assert meter.read() == {
        "task_loss/a": 7 / 8,
        "task_accuracy/a": 0.5,
        "task_tokens/a": 8,
        "task_weight/a": 1.0,
        "task_loss/b": pytest.approx(0.1),
        "task_accuracy/b": 0.5,
        "task_tokens/b": 10,
        "task_weight/b": 0.5,
        # A task that did not occur has no loss: 0 would be one.
        "task_tokens/c": 0,
        "task_weight/c": 1.0,
    }
    assert meter.read() == {}
    meter.add(sums([3.0, 0.0, 0.0], [6, 0, 0], [3, 0, 0]), torch.tensor([1.5, 0.0, 0.5]))
    assert [value for name, value in meter.read().items() if name.endswith("/a")] == [0.5, 0.5, 6, 1.5]


def test_it_goes_on_from_what_was_saved_of_it_in_any_order_of_the_tasks() -> None:
    before, unbroken, after = TaskMeter(["a", "b"]), TaskMeter(["a", "b"]), TaskMeter(["b", "a"])
    for meter in (before, unbroken):
        meter.add(sums([6.0, 1.0], [2, 10], [1, 5]), torch.tensor([0.5, 1.0]))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    after.add(sums([2.0, 1.0], [3, 6], [2, 3]), torch.tensor([0.0, 1.5]))
    unbroken.add(sums([1.0, 2.0], [6, 3], [3, 2]), torch.tensor([1.5, 0.0]))
    assert after.read() == unbroken.read()
    after.load_state_dict(json.loads(json.dumps(after.state_dict())))
    assert after.read() == {}


def test_weights_that_are_trained_keep_no_graph() -> None:
    meter, logits = TaskMeter(["a", "b"]), torch.zeros(2, requires_grad=True)
    hooks = []
    for _ in range(3):
        weights, hook = 2 * logits.softmax(0), partial(torch.clone)
        # A hook lives as long as its graph, to which there are no weak references.
        weights.register_hook(hook)
        hooks.append(weakref.ref(hook))
        meter.add(sums([6.0, 1.0], [2, 10], [1, 5]), weights)
        del weights, hook
    assert [hook() for hook in hooks] == [None] * 3
    assert meter.read()["task_weight/a"] == 1.0


def test_another_number_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="sums: expected one for each of 2 tasks, got 3"):
        TaskMeter(["a", "b"]).add(sums([0.0] * 3, [0] * 3, [0] * 3), torch.ones(3))


def test_the_example_runs() -> None:
    check_examples(TaskMeter)
