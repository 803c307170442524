"""Intervals over a few training seeds: as wide as Student's t says of so few."""

from statistics import NormalDist

import torch
from torch import Tensor

from cotbal.estimate.fieller import student


def stretched(draws: Tensor, of_seeds: Tensor | None, n_seeds: int, level: float) -> Tensor:
    """Return draws (K, ...) stretched about their mean, so that intervals of this level count the few seeds.

    By t / z, t of the degrees of freedom of the summed variance of items and seeds (Welch and Satterthwaite);
    that of the items counts as known.

    Args:
        draws: of items and seeds.
        of_seeds: (K', ...) of the same seeds alone; None: there is one, and nothing to stretch.
        n_seeds: how many.
        level: of the intervals.
    """
    if of_seeds is None:
        return draws
    probability = (1 + level) / 2
    ends = torch.tensor([1 - probability, probability], dtype=torch.float64)
    # Widths and not variances: a ratio's few wild draws would hide the seeds. Without noise there is none.
    part, whole = (each.quantile(ends, dim=0).diff(dim=0)[0] for each in (of_seeds, draws))
    share = (part / whole).nan_to_num(nan=1.0).clamp(max=1.0) ** 2
    few = student(probability, (n_seeds - 1) / share**2) / NormalDist().inv_cdf(probability)
    centre = draws.mean(0)
    return centre + few * (draws - centre)


def percentiles(draws: Tensor, level: float) -> Tensor:
    """Return (2, ...), the ends of the interval of draws (K, ...); NaN where a draw has no value."""
    tail = (1 - level) / 2
    return torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype), dim=0)


def few_seeds(n_seeds: int) -> list[str]:
    """Return what to know of intervals where they are of two seeds."""
    if n_seeds != 2:
        return []
    return [
        "2 seeds: so few show little of the noise between trainings. Where it is the larger part, the 95 % "
        "intervals hold the truth in some 82 to 95 % of cases, and what is said of several numbers at once "
        "is wrong more often."
    ]
