"""Fieller's confidence set of a ratio of two means, right also where the denominator is inside its noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from cotbal.estimate.clusters import covariance_of_means

# From here on the expansion of Student's quantile is right to 1e-5.
_FREEDOM_OF_EXPANSION = 60


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


@dataclass(frozen=True)
class Noise:
    """Variances and covariance of a pair of means (a, d) from one source, as far as they were estimated.

    Attributes:
        aa: (...) the variance of a.
        ad: (...) the covariance of a and d.
        dd: (...) the variance of d.
        freedom: degrees of freedom of these estimates.
    """

    aa: Tensor
    ad: Tensor
    dd: Tensor
    freedom: int

    @classmethod
    def of_items(cls, a: Tensor, d: Tensor, sizes: Tensor) -> "Noise":
        """From sums (..., G) of paired items by cluster; `sizes` (G,) are the items in each cluster."""
        aa, ad, dd = (covariance_of_means(*pair, sizes) for pair in ((a, a), (a, d), (d, d)))
        return cls(aa, ad, dd, len(sizes) - 1)

    @classmethod
    def of_seeds(cls, a: Tensor, d: Tensor) -> "Noise":
        """Of the means over S >= 2 seeds, from the values (..., S) in each of them."""
        return cls.of_items(a, d, torch.ones(a.shape[-1], dtype=torch.float64))

    def of_residual(self, a: Tensor, d: Tensor) -> Tensor:
        """d^2 times the variance of a - theta d at theta = a / d."""
        return (d**2 * self.aa - 2 * a * d * self.ad + a**2 * self.dd).clamp(min=0)


def fieller(a: Tensor, d: Tensor, noises: Sequence[Noise], *, level: float = 0.95) -> RatioSets:
    """The confidence sets of the ratios a / d of two means.

    All ratios theta with (a - theta d)^2 <= t^2 var(a - theta d). The variances of independent sources add,
    and t has the degrees of freedom of their sum by Welch and Satterthwaite, at theta = a / d.

    Args:
        a: (...) float64.
        d: (...) likewise.
        noises: of each source.
        level: of the confidence.
    """
    t2 = student(1 - (1 - level) / 2, _freedom(a, d, noises)) ** 2
    # qa theta^2 - 2 qb theta + qc <= 0
    qa = d**2 - t2 * torch.stack([noise.dd for noise in noises]).sum(0)
    qb = a * d - t2 * torch.stack([noise.ad for noise in noises]).sum(0)
    qc = a**2 - t2 * torch.stack([noise.aa for noise in noises]).sum(0)
    root2 = qb**2 - qa * qc
    root = root2.clamp(min=0).sqrt()
    first, second = (qb - root) / qa, (qb + root) / qa
    bounded = qa > 0
    everything = ~bounded & (root2 <= 0)
    low = torch.where(bounded, first, torch.maximum(first, second))
    high = torch.where(bounded, second, torch.minimum(first, second))
    return RatioSets(low.masked_fill(everything, -math.inf), high.masked_fill(everything, math.inf), bounded)


def student(probability: float, freedom: Tensor) -> Tensor:
    """The quantile (...) of Student's t above 1/2 for degrees of freedom (...) >= 1, right to 1e-5."""
    z, nu = NormalDist().inv_cdf(probability), freedom.clamp(min=1.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    expansion = z + first / nu + second / nu**2 + third / nu**3
    few = nu < _FREEDOM_OF_EXPANSION
    if bool(few.any()):
        expansion = expansion.masked_scatter(few, _of_few(probability, nu[few]))
    return expansion


def _of_few(probability: float, nu: Tensor) -> Tensor:
    """Student's t as sqrt(nu) tan(phi), phi in 0..pi/2 of a density proportional to cos(phi)^(nu - 1)."""
    edges = torch.linspace(0, math.pi / 2, 4001, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    reached = middles.cos().pow(nu[:, None] - 1).cumsum(1)
    reached = torch.nn.functional.pad(reached / reached[:, -1:], (1, 0))
    wanted = torch.full((len(nu), 1), 2 * probability - 1, dtype=torch.float64)
    place = torch.searchsorted(reached, wanted).clamp(1, len(middles))
    below, above = reached.gather(1, place - 1), reached.gather(1, place)
    phi = edges[place - 1] + (wanted - below) / (above - below) * (edges[1] - edges[0])
    return nu.sqrt() * phi[:, 0].tan()


def _freedom(a: Tensor, d: Tensor, noises: Sequence[Noise]) -> Tensor:
    """Degrees of freedom (...) of the summed variance of a - theta d at theta = a / d."""
    parts = torch.stack([noise.of_residual(a, d) for noise in noises])
    freedoms = torch.tensor([float(noise.freedom) for noise in noises], dtype=torch.float64)
    # Without any noise the quantile does not matter.
    shares = (parts / parts.sum(0)).nan_to_num(nan=1.0)
    return 1 / torch.einsum("p...,p->...", shares**2, 1 / freedoms)
