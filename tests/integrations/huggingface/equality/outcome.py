"""What a run leaves behind, and how far two of them are apart."""

from typing import NamedTuple

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


class Outcome(NamedTuple):
    """Of one run of plain gradient descent.

    Attributes:
        start: the parameters that train, before the first step, float32.
        first: after the first step.
        last: after the last.
        losses: of each step; where there are ranks, the mean over them of what `training_step` returned.
    """

    start: Parameters
    first: Parameters
    last: Parameters
    losses: list[float]


class Distances(NamedTuple):
    """Of a run from the reference.

    Attributes:
        update: |p - p_ref| / |p_ref - p_0| after the last step.
        gradient: |g - g_ref| / |g_ref| of the first step, g = (p_0 - p_1) / learning rate.
        loss: the largest |l - l_ref| / |l_ref| of a step.
    """

    update: float
    gradient: float
    loss: float


# What float32 leaves: 5 steps whose rounding the model amplifies; one step, rounded once more when it is
# added to parameters that are 50 times larger; sums of 24 bits in another order.
BOUNDS = Distances(update=1e-4, gradient=1e-5, loss=1e-6)


def distances(run: Outcome, reference: Outcome) -> Distances:
    """How far `run` is from `reference`; both started from the same parameters."""
    assert run.start.keys() == reference.start.keys()
    assert all(torch.equal(run.start[name], reference.start[name]) for name in reference.start)
    assert len(run.losses) == len(reference.losses), (len(run.losses), len(reference.losses))
    return Distances(
        _apart(run.last, reference.last) / _apart(reference.last, reference.start),
        _apart(run.first, reference.first) / _apart(reference.first, reference.start),
        max(_relative(loss, other) for loss, other in zip(run.losses, reference.losses, strict=True)),
    )


def movement(run: Outcome) -> float:
    """|p - p_0| / |p_0|."""
    return _apart(run.last, run.start) / _apart(run.start, {})


def _apart(left: Parameters, right: Parameters) -> float:
    """The Euclidean norm of left - right over all parameters; one that `right` lacks is 0 there."""
    differences = [left[name].double() - (right[name].double() if right else 0) for name in left]
    return torch.stack([each.square().sum() for each in differences]).sum().sqrt().item()


def _relative(value: float, expected: float) -> float:
    return abs(value - expected) / abs(expected) if expected else abs(value)
