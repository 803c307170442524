"""Pulling noisy signals toward their mean, each by its own reliability.

Values x_i with standard errors s_i are taken as x_i = true_i + noise_i, the true ones scattered about a
common mean with variance tau^2:

    r_i = tau^2 / (tau^2 + s_i^2)        m = sum_i w_i x_i / sum_i w_i,  w_i = 1 / (tau^2 + s_i^2)
    shrunk_i = r_i x_i + (1 - r_i) m

tau^2 is the solution of sum_i w_i (x_i - m)^2 = n - 1, and 0 where the values scatter less than their noise
(Paule and Mandel). Without noise nothing changes; where all is noise, every value becomes the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cotbal.estimate.formulas import contribution_of, difficulty_of
from cotbal.estimate.resample import Draws, resample
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import pooled_scores

# Halvings of the bracket of tau^2: to the last bit of a float64.
_HALVINGS = 100


@dataclass(frozen=True)
class Shrinkage:
    """How much of each of n values is kept, and what their mean is made of.

    Attributes:
        reliability: (n,) r_i in 0..1.
        shares: (n,) w_i / sum w, the weight of each value in the mean.
    """

    reliability: Tensor
    shares: Tensor

    @classmethod
    def fitted(cls, values: Tensor, errors: Tensor) -> Shrinkage:
        """The shrinkage of values (n,) with standard errors (n,); one of infinite error counts nothing."""
        known = errors.isfinite() & values.isfinite()
        x, s2 = values[known], errors[known] ** 2
        if len(x) < 2:
            # One value is its own mean, and its scatter cannot be told.
            return cls(known.double(), known.double())
        tau2 = _scatter(x, s2)
        reliability, shares = torch.zeros_like(values), torch.zeros_like(values)
        total = tau2 + s2
        reliability[known] = torch.where(total > 0, tau2 / total, 1.0)
        # A value without noise where nothing scatters is the mean.
        precision = torch.where(total > 0, 1 / total, torch.inf)
        exact = precision.isinf()
        precision = exact.double() if bool(exact.any()) else precision
        shares[known] = precision / precision.sum()
        return cls(reliability, shares)

    def applied(self, values: Tensor) -> Tensor:
        """Values (..., n) pulled to their mean."""
        values = values.masked_fill(self.shares == 0, 0.0)
        mean = (values * self.shares).sum(-1, keepdim=True)
        return self.reliability * values + (1 - self.reliability) * mean


@dataclass(frozen=True)
class ShrunkSignals:
    """The shrinkage of a score table's C and D.

    Attributes:
        contribution: of the N (N - 1) cells of C beside its diagonal, row by row.
        difficulty: of the N values of D.
    """

    contribution: Shrinkage
    difficulty: Shrinkage

    @classmethod
    def of(cls, pooled: Scores, drawn: Draws) -> ShrunkSignals:
        """From a table and its resamples, which know items, clusters and seeds alike.

        The errors are those of the linearised ratios, (a - C d) / d and (a - q b) / b, which are finite where
        the draws of the ratio itself have no variance. A column whose denominator is not positive has none.
        """
        mini, probes = pooled.oriented("mini"), pooled.oriented("probes")
        own, C = probes.diagonal() - mini, contribution_of(mini, probes)
        full = drawn.probes.diagonal(dim1=1, dim2=2)
        off = (drawn.probes - drawn.mini[:, None]) - C * (full - drawn.mini)[:, None]
        errors = torch.where(own > 0, off.std(0) / own, torch.inf)
        whole = probes.diagonal() if pooled.equal is None else pooled.oriented("equal")
        D = difficulty_of(mini, whole)
        of_D = (drawn.mini - (1 - D) * (full if drawn.equal is None else drawn.equal)).std(0) / whole.abs()
        return cls(Shrinkage.fitted(_cells(C), _cells(errors)), Shrinkage.fitted(D, of_D))

    def contributions(self, C: Tensor) -> Tensor:
        """C (..., N, N) with its cells pulled to their mean; the diagonal stays 1."""
        n = C.shape[-1]
        table = torch.ones_like(C)
        table[..., _beside_diagonal(n)] = self.contribution.applied(_cells(C))
        return table

    def difficulties(self, D: Tensor) -> Tensor:
        """D (..., N) pulled to its mean."""
        return self.difficulty.applied(D)


def shrunk_signals(tables: Sequence[Scores], *, draws: int = 2000) -> ShrunkSignals:
    """The shrinkage of the signals of one table, or of the mean of one per seed; it needs their items.

    Raises:
        ValueError: tables without items, or no task that gains from its own data.
    """
    pooled = pooled_scores(tables)
    gains = pooled.oriented("probes").diagonal() - pooled.oriented("mini")
    if not bool((gains > 0).any()):
        raise ValueError("shrink: no task gains from its own data, so that C says nothing; use rule 'equal'")
    return ShrunkSignals.of(pooled, resample(tables, draws=draws))


def _scatter(x: Tensor, s2: Tensor) -> Tensor:
    """tau^2 of values (n,) with squared errors (n,)."""

    def excess(tau2: Tensor) -> Tensor:
        weights = 1 / (tau2 + s2)
        mean = (weights * x).sum() / weights.sum()
        return (weights * (x - mean) ** 2).sum() - (len(x) - 1)

    low, high = torch.zeros((), dtype=torch.float64), ((x - x.mean()) ** 2).sum()
    if not bool(high > 0) or (bool((s2 > 0).all()) and bool(excess(low) <= 0)):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if bool(excess(middle) > 0) else (low, middle)
    return high


def _beside_diagonal(n: int) -> Tensor:
    return ~torch.eye(n, dtype=torch.bool)


def _cells(C: Tensor) -> Tensor:
    return C[..., _beside_diagonal(C.shape[-1])]
