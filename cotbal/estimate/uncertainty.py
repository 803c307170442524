"""How far every number of an estimate can be trusted: intervals, comparisons, and what is only noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from cotbal.estimate.few_seeds import percentiles, stretched
from cotbal.estimate.fieller import Noise, RatioSets, fieller
from cotbal.estimate.formulas import all2one_of, contribution_of, difficulty_of, one2all_of, weights_of
from cotbal.estimate.resample import (
    SOURCES,
    Draws,
    equal_is_one_training,
    resample,
    stacked_items,
    without_difficulty,
)
from cotbal.estimate.rule_names import RULES, USE_ALL2ONE, USE_DIFFICULTY, USE_ONE2ALL
from cotbal.estimate.scores import Scores, as_tables
from cotbal.estimate.seeds import pooled_scores
from cotbal.estimate.signals import MIN_STANDARD_ERRORS, unidentified
from cotbal.estimate.strata import parts
from cotbal.estimate.transforms import oriented_items


@dataclass(frozen=True)
class RuleNoise:
    """The weights of one rule in their noise.

    Attributes:
        low: (N,) float64, lower ends of the intervals.
        high: (N,) upper ends.
        larger: (N, N), larger[i, j] the probability that task i's weight exceeds task j's.
        is_noise: whether no weight differs from 1 by more than the noise of all of them together.
    """

    low: Tensor
    high: Tensor
    larger: Tensor
    is_noise: bool


@dataclass(frozen=True)
class Uncertainty:
    """Confidence intervals of an estimate; every tensor float64, NaN where a draw has no value.

    Attributes:
        tasks: the N tasks.
        level: of the intervals.
        n_seeds: how many training seeds the scores are of; the noise between them is not known from one.
        mini: (2, N), lower and upper ends for V_j(mini).
        probes: (2, N, N) for V_j(i+mini).
        contribution: Fieller's sets (N, N) for C_ij; [1, 1] on the diagonal.
        one2all: (2, N), None where a column is not identified.
        all2one: (2, N), likewise.
        difficulty: (2, N), None where it is the precise one.
        rules: the weights of each rule; None where the rule needs a column that is not identified, a
            difficulty without an interval or the precise one.
        unidentified: the tasks whose column is not identified, each with the reason in words.
        undefined: the tasks whose difficulty has no interval, likewise.
        equal_is_one_training: whether the model of equal weights is the same one under all seeds, whose noise
            between trainings is taken to be that of the mini run and the probes.
    """

    tasks: tuple[str, ...]
    level: float
    n_seeds: int
    mini: Tensor
    probes: Tensor
    contribution: RatioSets
    one2all: Tensor | None
    all2one: Tensor | None
    difficulty: Tensor | None
    rules: dict[str, RuleNoise | None]
    unidentified: dict[str, str]
    undefined: dict[str, str]
    equal_is_one_training: bool

    def to_json(self) -> dict[str, Any]:
        """The intervals as JSON values; an unbounded set of C is null, as is what has none."""
        C = zip(self.contribution.low.tolist(), self.contribution.high.tolist(), strict=True)
        bounded = self.contribution.bounded.tolist()
        return {
            "level": self.level,
            "n_seeds": self.n_seeds,
            "tasks": list(self.tasks),
            "mini": _pairs(self.mini),
            "probes": [_pairs(row) for row in self.probes.unbind(1)],
            "contribution": [
                [[low, high] if is_bounded else None for low, high, is_bounded in zip(*rows, strict=True)]
                for rows in ((lows, highs, bounded[i]) for i, (lows, highs) in enumerate(C))
            ],
            "one2all": None if self.one2all is None else _pairs(self.one2all),
            "all2one": None if self.all2one is None else _pairs(self.all2one),
            "difficulty": None if self.difficulty is None else _pairs(self.difficulty),
            "weights": {name: _rule_json(noise) for name, noise in self.rules.items()},
            "unidentified": self.unidentified,
            "undefined": self.undefined,
            "equal_is_one_training": self.equal_is_one_training,
        }


def uncertainty(
    scores: Scores | Sequence[Scores],
    *,
    temperature: float = 0.5,
    alpha: float = 0.5,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    over: Sequence[str] = SOURCES,
    precise: bool = False,
) -> Uncertainty:
    """Confidence intervals for scores, contribution, difficulty and weights, from the scores' items.

    Scores, means of C, difficulty and weights by the bootstrap, with the same items drawn in every run; each
    C_ij by Fieller's theorem, from the noise of items and that between seeds, which holds where the
    denominator is inside its noise as well (the bootstrap does not there, so that a column below 3 standard
    errors takes the weights' intervals with it). One seed tells nothing of the noise between seeds; a few
    show it badly, and the intervals are wider by Student's t.

    For the weights of `estimate_weights(shrink=True)` these are the intervals too. Around the pulled values
    none of this width would hold the truth as often: what is far from the mean is pulled away from it.

    Args:
        scores: a table with items, or one per training seed.
        temperature: T > 0.
        alpha: the share of the contribution in Eq. 11.
        level: of the intervals, in 0..1.
        draws: of the bootstrap.
        seed: of its random numbers.
        over: the noise that is looked at: "items", "seeds" or both.
        precise: the difficulty is that of the single-task runs, whose items are not known: what needs it has
            no interval.

    Raises:
        ValueError: tables without items or of different tasks, or a level or number of draws out of range.

    Example:
        >>> right, wrong = [1.0] * 60, [0.0] * 60
        >>> items = {"mini": {"a": right[:12] + wrong[:48], "b": right[:18] + wrong[:42]}}
        >>> items["a"] = {"a": right[:48] + wrong[:12], "b": right[:24] + wrong[:36]}
        >>> items["b"] = {"a": right[:15] + wrong[:45], "b": right[:45] + wrong[:15]}
        >>> scores = Scores(["a", "b"], [0.2, 0.3], [[0.8, 0.4], [0.25, 0.75]], items=items)
        >>> found = uncertainty(scores)
        >>> found.rules["cotbal"].is_noise
        False
    """
    tables = as_tables(scores)
    _check(level, draws)
    pooled = pooled_scores(tables)
    drawn = resample(tables, draws=draws, seed=seed, over=over)
    reasons = unidentified(pooled) | _lost_in_noise(pooled, drawn)
    mini, found = pooled.oriented("mini"), _quantities(pooled, drawn, temperature, alpha)
    undefined = {}
    if not precise:
        undefined = without_difficulty(pooled.tasks, found["D"]) | _not_above_0(pooled.tasks, mini)
    alone: dict[str, Tensor] = {}
    if len(tables) > 1 and "seeds" in over:
        alone = _quantities(pooled, resample(tables, draws=draws, over=("seeds",)), temperature, alpha)

    def interval(name: str) -> Tensor:
        return percentiles(stretched(found[name], alone.get(name), len(tables), level), level)

    rules: dict[str, RuleNoise | None] = {}
    for rule in RULES:
        if rule == "equal":
            continue
        without_D = precise or undefined
        if (reasons and rule in USE_ONE2ALL + USE_ALL2ONE) or (without_D and rule in USE_DIFFICULTY):
            rules[rule] = None
            continue
        name = f"weights by {rule}"
        rules[rule] = _rule_noise(found[name], alone.get(name), len(tables), level)
    return Uncertainty(
        tasks=pooled.tasks,
        level=level,
        n_seeds=len(tables),
        mini=interval("mini"),
        probes=interval("probes"),
        contribution=_ratio_sets(tables, pooled, level, over),
        one2all=None if reasons else interval("C one2all"),
        all2one=None if reasons else interval("C all2one"),
        difficulty=None if precise else interval("D"),
        rules=rules,
        unidentified=reasons,
        undefined=undefined,
        equal_is_one_training="seeds" in over and equal_is_one_training(tables),
    )


def _quantities(pooled: Scores, drawn: Draws, temperature: float, alpha: float) -> dict[str, Tensor]:
    """(K, ...) of each, and of the means of C and the weights only the draws in which they have values."""
    whole = drawn.probes.diagonal(dim1=1, dim2=2) if drawn.equal is None else drawn.equal
    # What has no difficulty has no interval of one.
    D = difficulty_of(drawn.mini, whole).masked_fill(pooled.oriented("mini") <= 0, math.nan)
    C = contribution_of(drawn.mini, drawn.probes)
    one, all_ = one2all_of(C), all2one_of(C)
    weights = {
        f"weights by {rule}": weights_of(rule, one, all_, D, temperature=temperature, alpha=alpha)
        for rule in RULES
        if rule != "equal"
    }
    means = {"C one2all": one, "C all2one": all_, **weights}
    return {
        "mini": drawn.mini,
        "probes": drawn.probes,
        "D": D,
        **{name: _finite(values) for name, values in means.items()},
    }


def _check(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    if draws < 100:
        raise ValueError(f"draws: expected at least 100, got {draws}")


def _not_above_0(tasks: Sequence[str], mini: Tensor) -> dict[str, str]:
    """The tasks that Eq. 9 gives no difficulty, as their score with the mini subset is not above 0."""
    return {
        task: f"the score of task {task!r} with the mini subset is {score:g}; its difficulty needs one "
        "above 0"
        for task, score in zip(tasks, mini.tolist(), strict=True)
        if score <= 0
    }


def _lost_in_noise(pooled: Scores, drawn: Draws) -> dict[str, str]:
    """The tasks whose own gain is within the noise of items and seeds together, or not known in a draw."""
    gaps = drawn.probes.diagonal(dim1=1, dim2=2) - drawn.mini
    gains = pooled.oriented("probes").diagonal() - pooled.oriented("mini")
    # A mean of C without the cell that has no value in a draw would be another quantity there.
    valueless = (drawn.probes.isnan().any(1) | drawn.mini.isnan()).sum(0)
    columns = (values.tolist() for values in (gains, gaps.mean(0), gaps.std(0), valueless))
    found = {}
    for task, gain, mean, error, count in zip(pooled.tasks, *columns, strict=True):
        if count:
            found[task] = (
                f"the reciprocal of task {task!r} has no value in some draws ({count} of {len(gaps)}), where "
                "the scores come to 0; use 'complement: bound'"
            )
        # Without noise, what is not above 0 is not identified in the table itself.
        elif error > 0 and mean < MIN_STANDARD_ERRORS * error:
            found[task] = (
                f"V({task} + mini) - V(mini) of task {task!r} is {gain:.4g}, only {mean / error:.2f} of its "
                f"standard errors over items and seeds, expected at least {MIN_STANDARD_ERRORS:g}"
            )
    return found


def _ratio_sets(tables: Sequence[Scores], pooled: Scores, level: float, over: Sequence[str]) -> RatioSets:
    """Fieller's sets of every cell of C, from the noise of the sources in `over` that the tables show."""
    lows, highs, bounded = [], [], []
    tasks, transforms = tables[0].tasks, tables[0].transforms
    for place, task in enumerate(tasks):
        items = stacked_items(tables, task)
        gains = _gains(oriented_items(items.mean(0), task, transforms), len(tasks))
        a = gains.mean(-1)
        nothing = torch.zeros_like(a)
        noises = [Noise(nothing, nothing, nothing, 1)]
        if "items" in over:
            for sums, sizes in parts(gains, task, pooled.clusters.get(task), pooled.strata.get(task)):
                noises.append(Noise.of_items(sums, sums[place].expand_as(sums), sizes))
        if "seeds" in over and len(tables) > 1:
            of_seeds = _gains(oriented_items(items, task, transforms), len(tasks)).mean(-1).T
            noises.append(Noise.of_seeds(of_seeds, of_seeds[place].expand_as(of_seeds)))
        sets = fieller(a, a[place].expand_as(a), noises, level=level)
        diagonal = torch.zeros(len(tasks), dtype=torch.bool)
        diagonal[place] = True
        lows.append(sets.low.masked_fill(diagonal, 1.0))
        highs.append(sets.high.masked_fill(diagonal, 1.0))
        bounded.append(sets.bounded | diagonal)
    return RatioSets(torch.stack(lows, 1), torch.stack(highs, 1), torch.stack(bounded, 1))


def _gains(items: Tensor, n_tasks: int) -> Tensor:
    """(..., N, n): the probes' items less those of the mini run, the first of the runs (..., R, n)."""
    return items[..., 1 : n_tasks + 1, :] - items[..., :1, :]


def _finite(draws: Tensor) -> Tensor:
    """The draws (K, N) without those few in which an identified denominator of C is just 0."""
    return draws[draws.isfinite().all(1)]


def _pairs(ends: Tensor) -> list[list[float] | None]:
    """[low, high] of each of the N in (2, N), None where they are NaN."""
    return [None if math.isnan(low) else [low, high] for low, high in ends.T.tolist()]


def _rule_noise(draws: Tensor, of_seeds: Tensor | None, n_seeds: int, level: float) -> RuleNoise:
    # No weight is below 0 or above N, whatever few seeds leave open.
    weights = stretched(draws, of_seeds, n_seeds, level).clamp(0, draws.shape[1])
    low, high = percentiles(weights, level)
    above = (weights[:, :, None] > weights[:, None, :]).double().mean(0)
    tied = (weights[:, :, None] == weights[:, None, :]).double().mean(0)
    # Simultaneous: the largest deviation of any weight, in its own standard errors.
    centre, spread = draws.mean(0), draws.std(0).clamp(min=1e-12)
    reach = torch.quantile(((draws - centre) / spread).abs().amax(1), level)
    # Student's t has more beyond that of a few seeds.
    of_all = max(level, min(2 * NormalDist().cdf(reach.item()) - 1, 0.9999))
    spread = stretched(draws, of_seeds, n_seeds, of_all).std(0).clamp(min=1e-12)
    is_noise = bool(((centre - 1.0).abs() <= reach * spread).all())
    return RuleNoise(low, high, above + tied / 2, is_noise)


def _rule_json(noise: RuleNoise | None) -> dict[str, Any] | None:
    if noise is None:
        return None
    return {
        "intervals": torch.stack([noise.low, noise.high], 1).tolist(),
        "larger": noise.larger.tolist(),
        "is_noise": noise.is_noise,
    }
