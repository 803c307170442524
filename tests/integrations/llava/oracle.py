"""Eq. 2 in float64 from what a run recorded, and how far a run's own numbers are from it."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.integrations.llava.recorder import MicroBatch, Recording


def task_sums(
    micro_batches: Iterable[MicroBatch], tasks: Sequence[str]
) -> tuple[dict[str, float], dict[str, int]]:
    """Of each task: the sum of its tokens' losses, and their number; `tasks` names each record's."""
    sums, counts = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0)
    for micro_batch in micro_batches:
        for record, hidden, labels in zip(
            micro_batch.records, micro_batch.hidden, micro_batch.labels, strict=True
        ):
            valid = labels[1:] != -100
            logits = hidden[:-1][valid].double() @ micro_batch.weight.double().T
            sums[tasks[record]] += F.cross_entropy(logits, labels[1:][valid], reduction="sum").item()
            counts[tasks[record]] += int(valid.sum())
    return sums, counts


def step_loss(
    micro_batches: Iterable[MicroBatch], tasks: Sequence[str], weights: Mapping[str, float]
) -> float:
    """The loss of an optimizer step: over all its micro-batches, of all ranks."""
    sums, counts = task_sums(micro_batches, tasks)
    denominator = sum(weights[task] * counts[task] for task in counts)
    return sum(weights[task] * sums[task] for task in sums) / denominator if denominator else 0.0


def returned_loss(ranks: Sequence[Recording], step: int) -> float:
    """What the Trainer takes for the step's loss: the sum over its micro-steps, the mean over the ranks."""
    return sum(sum(rank.steps[step].returned) for rank in ranks) / len(ranks)


def loss_error(ranks: Sequence[Recording], tasks: Sequence[str], weights: Mapping[str, float]) -> float:
    """The largest relative difference of a step's loss from Eq. 2."""
    errors = [
        relative(returned_loss(ranks, step), step_loss(micro_batches_of(ranks, step), tasks, weights))
        for step in ranks[0].steps
    ]
    # Python's max would lose a NaN.
    return torch.tensor(errors, dtype=torch.float64).max().item()


def micro_batches_of(ranks: Sequence[Recording], step: int) -> list[MicroBatch]:
    return [micro_batch for rank in ranks for micro_batch in rank.steps[step].micro_batches]


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The norm of the difference of two sets of parameters."""
    assert one.keys() == other.keys()
    differences = [(one[name].double() - other[name].double()).pow(2).sum() for name in one]
    return torch.stack(differences).sum().sqrt().item()


def norm(parameters: Mapping[str, Tensor]) -> float:
    return torch.stack([each.double().pow(2).sum() for each in parameters.values()]).sum().sqrt().item()


def relative(actual: float, expected: float) -> float:
    # The loss of a step without a label is 0, exactly.
    return abs(actual - expected) / abs(expected) if expected else float("inf" if actual else 0.0)
