"""Fieller's confidence set of a ratio of two means, right also where the denominator is inside its noise."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from cotbal.estimate.clusters import covariance_of_means


@dataclass(frozen=True)
class RatioSets:
    """Confidence sets of ratios, tensors of one shape.

    A set is [low, high] where `bounded`. Elsewhere the denominator's noise reaches 0, and the set is all
    numbers outside of (high, low), or, where low and high are infinite, all numbers.

    Attributes:
        low: float64.
        high: float64.
        bounded: bool.
    """

    low: Tensor
    high: Tensor
    bounded: Tensor

    def contains(self, ratio: Tensor) -> Tensor:
        """Whether each set holds the ratio."""
        inside = (ratio >= self.low) & (ratio <= self.high)
        outside = (ratio <= self.high) | (ratio >= self.low) | self.low.isinf()
        return torch.where(self.bounded, inside, outside)


def fieller(numerator: Tensor, denominator: Tensor, sizes: Tensor, *, level: float = 0.95) -> RatioSets:
    """The confidence sets of mean(numerator) / mean(denominator), for paired items.

    All ratios theta with (mean(a) - theta mean(d))^2 <= t^2 var(mean(a) - theta mean(d)).

    Args:
        numerator: (..., G) float64, sums of each cluster's items (or the items themselves).
        denominator: (..., G), likewise, of the same clusters.
        sizes: (G,) the items in each cluster.
        level: of the confidence.
    """
    n_groups = numerator.shape[-1]
    t2 = student(1 - (1 - level) / 2, n_groups - 1) ** 2
    total = sizes.sum()
    a, d = numerator.sum(-1) / total, denominator.sum(-1) / total
    # qa theta^2 - 2 qb theta + qc <= 0
    qa = d**2 - t2 * covariance_of_means(denominator, denominator, sizes)
    qb = a * d - t2 * covariance_of_means(numerator, denominator, sizes)
    qc = a**2 - t2 * covariance_of_means(numerator, numerator, sizes)
    root2 = qb**2 - qa * qc
    root = root2.clamp(min=0).sqrt()
    first, second = (qb - root) / qa, (qb + root) / qa
    bounded = qa > 0
    everything = ~bounded & (root2 <= 0)
    low = torch.where(bounded, first, torch.maximum(first, second))
    high = torch.where(bounded, second, torch.minimum(first, second))
    return RatioSets(low.masked_fill(everything, -math.inf), high.masked_fill(everything, math.inf), bounded)


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t by its expansion about the normal one, 1e-4 off at 10 degrees of it."""
    z, nu = NormalDist().inv_cdf(probability), max(freedom, 1)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / nu + second / nu**2 + third / nu**3
