"""The noise of test scores: items and seeds drawn again, the same ones for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from cotbal.compare.finals import Finals
from cotbal.estimate.few_seeds import percentiles, stretched
from cotbal.estimate.resample import SOURCES, drawn_means

# A score that is not the mean of its items is another quantity, and its interval would be of that.
_TOLERANCE = 1e-6
# Noise adds most to dE where a true gain is 0: s / sqrt(2 pi) by normal noise of standard deviation s, and
# sqrt(2) times as much in the draws, which have it twice. So they lie above the truth by at most this many
# times what they lie above the measured dE.
_ADDED = 2 + 2**0.5


@dataclass(frozen=True)
class Drawn:
    """K draws of the scores of M methods.

    Attributes:
        methods: their names.
        columns: the names of the columns.
        scores: (K, M, C) float64.
        gains: (K, M, T) I of every task (Eq. 12), None without a baseline.
        n_seeds: how many seeds they are of.
        of_seeds: where there are several, the draws of the seeds alone.
    """

    methods: Sequence[str]
    columns: Sequence[str]
    scores: Tensor
    gains: Tensor | None
    n_seeds: int = 1
    of_seeds: Drawn | None = None

    def score_intervals(self, method: str, level: float) -> dict[str, list[float]]:
        """Low and high end of a method's score in every column."""
        place = self.methods.index(method)
        alone = None if self.of_seeds is None else self.of_seeds.scores[:, place]
        of_method = stretched(self.scores[:, place], alone, self.n_seeds, level)
        return dict(zip(self.columns, percentiles(of_method, level).T.tolist(), strict=True))

    def interval(
        self,
        key: str,
        method: str,
        level: float,
        *,
        measured: Mapping[str, float],
        against: str | None = None,
    ) -> list[float] | None:
        """Low and high end of "delta_i" or "delta_e" in percent, or of its difference from another method's.

        Noise only ever adds to dE: the low end goes down by the most that it may have added to the draws of
        the method, the high end up by that of the other one's. None where a draw of the baseline is not
        above 0.

        Args:
            key: "delta_i" or "delta_e".
            method: whose.
            level: of the interval, such as 0.95.
            measured: by method, what the scores themselves give, in percent.
            against: the other method; None: no difference.
        """
        values = self._measure(key, method, against)
        if not bool(values.isfinite().all()):
            return None
        alone = None if self.of_seeds is None else self.of_seeds._measure(key, method, against)
        plain = percentiles(values, level)
        wide = percentiles(stretched(values, alone, self.n_seeds, level), level)
        # Where most draws of dE are 0, all of them stretched can be on one side of it.
        low, high = min(plain[0], wide[0]).item(), max(plain[1], wide[1]).item()
        if key == "delta_i":
            return [low, high]
        low -= self._added(method, measured[method])
        if against is None:
            return [max(0.0, low), high]
        return [low, high + self._added(against, measured[against])]

    def _added(self, method: str, measured: float) -> float:
        """The most by which noise has raised the draws of a method's dE on average, in percent."""
        return _ADDED * max(0.0, self._measure("delta_e", method).mean().item() - measured)

    def _measure(self, key: str, method: str, against: str | None = None) -> Tensor:
        assert self.gains is not None
        gains = self.gains[:, self.methods.index(method)]
        values = 100 * (gains.mean(1) if key == "delta_i" else gains.clamp(max=0).mean(1).abs())
        return values if against is None else values - self._measure(key, against)


def why_no_intervals(finals: Finals, methods: Sequence[str]) -> str | None:
    """Why the scores of these methods allow no intervals; None where they do."""
    if len({frozenset(finals.models[method]) for method in methods}) > 1:
        return "the methods were trained under different seeds"
    if others := [column.name for column in finals.columns if finals.sha256.get(column.name) == ""]:
        return f"the tables were scored on different test files of {', '.join(others)}"
    for column in (column.name for column in finals.columns):
        lengths = set()
        for method in methods:
            for model in finals.models[method].values():
                items = model.items.get(column)
                if not items:
                    return f"there are no scores by item of {method} on {column}"
                score, mean = model.scores[column], sum(items) / len(items)
                if abs(mean - score) > _TOLERANCE * max(1.0, abs(score)):
                    return f"the score of {method} on {column} is not the mean of its items"
                lengths.add(len(items))
        if column in finals.clusters and not finals.clusters[column]:
            return (
                f"{column} was scored on items of other clusters, or of none: on others, or in another order"
            )
        if column in finals.clusters and len(set(finals.clusters[column])) < 2:
            return f"all items of {column} belong together"
        if len(lengths) > 1:
            return f"{column} was scored on different items: {', '.join(map(str, sorted(lengths)))} of them"
        if lengths == {1}:
            return f"{column} was scored on one item"
    return None


def n_items(finals: Finals, method: str) -> dict[str, int]:
    """How many items, or clusters of them, each column is scored on; of methods that allow intervals."""
    model = next(iter(finals.models[method].values()))
    return {
        name: len(set(finals.clusters.get(name, range(len(items))))) for name, items in model.items.items()
    }


def draw(finals: Finals, methods: Sequence[str], baseline: str | None, draws: int) -> Drawn:
    """The scores of methods in every draw, of items and, where there are several, of seeds.

    Args:
        finals: the models, with their items.
        methods: which.
        baseline: one of them, what the improvement is over; None: without one.
        draws: how many.
    """
    seeds = sorted(finals.models[methods[0]])
    sources = [SOURCES, ("seeds",)] if len(seeds) > 1 else [SOURCES]
    columns: list[list[Tensor]] = [[] for _ in sources]
    for column in finals.columns:
        name = column.name
        of_seeds = [[finals.models[method][seed].items[name] for method in methods] for seed in seeds]
        items, numbers = torch.tensor(of_seeds, dtype=torch.float64), finals.clusters.get(name)
        seed = crc32(f"0 {name}".encode())
        for over, drawn in zip(sources, columns, strict=True):
            drawn.append(drawn_means(items, name, draws=draws, seed=seed, over=over, clusters=numbers))
    scores = [torch.stack(drawn, dim=-1) for drawn in columns]
    gains = [None if baseline is None else _gains(finals, each, methods.index(baseline)) for each in scores]
    names = [column.name for column in finals.columns]
    alone = Drawn(methods, names, scores[1], gains[1]) if len(seeds) > 1 else None
    return Drawn(methods, names, scores[0], gains[0], len(seeds), alone)


def _gains(finals: Finals, scores: Tensor, baseline: int) -> Tensor:
    base = scores[:, baseline : baseline + 1]
    signs = torch.tensor([1.0 if column.better == "higher" else -1.0 for column in finals.columns])
    changes = torch.where(base > 0, signs * (scores - base) / base, torch.nan)
    of_task = [[c.task == task for c in finals.columns] for task in finals.tasks]
    return torch.stack([changes[..., torch.tensor(chosen)].mean(-1) for chosen in of_task], dim=-1)
