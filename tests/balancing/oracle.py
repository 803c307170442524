"""The rules once more in plain Python, from their definitions: what the tensors must agree with."""

import math
from collections.abc import Sequence

# A step as the rules see it: each task's mean loss, None where the task was absent.
Step = Sequence[float | None]


def last_loss(history: Sequence[Step], task: int) -> float | None:
    """The loss of the last step where the task occurred."""
    losses = [step[task] for step in history if step[task] is not None]
    return losses[-1] if losses else None


def window_mean(history: Sequence[Step], task: int, start: int, stop: int) -> float | None:
    """The mean over the steps start..stop-1 where the task occurred; its last loss by then if in none."""
    losses = [loss for step in history[start:stop] if (loss := step[task]) is not None]
    return math.fsum(losses) / len(losses) if losses else last_loss(history[:stop], task)


def ratio(value: float | None, base: float | None) -> float:
    return 1.0 if value is None or not base else value / base


def n_softmax(values: Sequence[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [len(values) * each / math.fsum(exponentials) for each in exponentials]


def dwa(history: Sequence[Step], n_tasks: int, window: int, temperature: float) -> list[float]:
    step = len(history)
    if step < 2 * window:
        return [1.0] * n_tasks
    return n_softmax(
        [
            ratio(
                window_mean(history, task, step - window, step),
                window_mean(history, task, step - 2 * window, step - window),
            )
            / temperature
            for task in range(n_tasks)
        ]
    )


def igbv1(history: Sequence[Step], n_tasks: int, base_start: int, base_stop: int) -> list[float]:
    if len(history) < base_stop:
        return [1.0] * n_tasks
    return n_softmax(
        [
            ratio(last_loss(history, task), window_mean(history, task, base_start, base_stop))
            for task in range(n_tasks)
        ]
    )


def tla(counts: Sequence[int]) -> list[float]:
    present = sum(count > 0 for count in counts)
    return [sum(counts) / present / count if count else 0.0 for count in counts]
