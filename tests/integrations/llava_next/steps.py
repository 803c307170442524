"""Eq. 2 of the steps of a run whose ranks may each have drawn records of their own."""

from collections.abc import Mapping, Sequence

from tests.integrations.llava.oracle import returned_loss, task_sums
from tests.integrations.llava.recorder import Recording


def step_losses(ranks: Sequence[Recording], weights: Mapping[str, float]) -> list[float]:
    """The loss of each optimizer step in float64, over all ranks; ids begin with the task."""
    return [_step_loss(ranks, step, weights) for step in ranks[0].steps]


def loss_error(ranks: Sequence[Recording], weights: Mapping[str, float]) -> float:
    """The largest relative difference of a step's loss from Eq. 2."""
    expected = step_losses(ranks, weights)
    actual = [returned_loss(ranks, step) for step in ranks[0].steps]
    return max(abs(a - b) / b for a, b in zip(actual, expected, strict=True))


def _step_loss(ranks: Sequence[Recording], step: int, weights: Mapping[str, float]) -> float:
    numerator = denominator = 0.0
    for rank in ranks:
        sums, counts = task_sums(rank.steps[step].micro_batches, _tasks(rank))
        numerator += sum(weights[task] * sums[task] for task in sums)
        denominator += sum(weights[task] * counts[task] for task in counts)
    return numerator / denominator


def task_means(ranks: Sequence[Recording]) -> dict[str, float]:
    """The mean loss of each task that has a token, over all steps as if they were one."""
    totals: dict[str, list[float]] = {}
    for rank in ranks:
        for step in rank.steps.values():
            sums, counts = task_sums(step.micro_batches, _tasks(rank))
            for task in sums:
                total = totals.setdefault(task, [0.0, 0.0])
                total[0], total[1] = total[0] + sums[task], total[1] + counts[task]
    return {task: total / count for task, (total, count) in totals.items() if count}


def _tasks(rank: Recording) -> list[str]:
    return [identity.rsplit("-", 1)[0] for identity in rank.ids]
