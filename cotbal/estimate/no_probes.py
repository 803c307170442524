"""Weights without probe runs: the difficulty from the mini run and from a model of equal weights.

    D_i = 1 - V_i(mini) / V_i(equal)          l = alpha + (1 - alpha) N softmax(D / T)

The contribution's weights are 1. That is rule "cotbal" with nothing known of C, not the rule "difficulty".
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotbal.estimate.clusters import Clusters, checked_clusters
from cotbal.estimate.few_seeds import percentiles, stretched
from cotbal.estimate.formulas import difficulty_of, weights_of
from cotbal.estimate.resample import (
    SOURCES,
    between_trainings,
    drawn_means,
    seed_of,
    without_difficulty,
)
from cotbal.estimate.rules import weights_from_signals
from cotbal.estimate.score_csv import EQUAL, MINI, TRANSFORM, numbers, read_score_csv, write_score_csv
from cotbal.estimate.seeds import check_alike, common_clusters, common_strata, mean_of, spread
from cotbal.estimate.strata import Strata, balanced, checked_strata
from cotbal.estimate.transforms import checked_transforms, oriented, oriented_draws, remedy
from cotbal.weights import TaskWeights


@dataclass(frozen=True)
class TwoModels:
    """Validation scores of the mini run and of the equally weighted model of all data.

    Attributes:
        tasks: the N tasks.
        mini: V_i(mini).
        equal: V_i of the equally weighted model.
        items: {"mini" | "equal": {task: per-item scores}}, the items in the same order; may be empty.
        clusters: which of them belong together, as of `Scores`.
        transforms: where lower is better, as of `Scores`.
        by_seed: of the mean over seeds, what it is of.
        strata: of which validation set each item is, as of `Scores`.

    Raises:
        ValueError: a score that is not a finite number, or clusters, strata or transforms as of `Scores`.
    """

    tasks: Sequence[str]
    mini: Sequence[float]
    equal: Sequence[float]
    items: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    clusters: Clusters = field(default_factory=dict)
    transforms: Mapping[str, str] = field(default_factory=dict)
    by_seed: Sequence[TwoModels] = ()
    strata: Strata = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run, row in ((MINI, self.mini), (EQUAL, self.equal)):
            for task, score in zip(self.tasks, row, strict=True):
                if not math.isfinite(score):
                    raise ValueError(f"run {run!r}, task {task!r}: expected a finite score, got {score}")
        checked_clusters(self.clusters, self.items)
        checked_strata(self.strata, self.items, self.clusters)
        object.__setattr__(self, "transforms", checked_transforms(self.transforms, self.tasks))

    @classmethod
    def pooled(cls, tables: Sequence[TwoModels]) -> TwoModels:
        """The means over seeds, of scores and of each item.

        Raises:
            ValueError: other tasks, transforms, items, clusters or strata under another seed.
        """
        first = tables[0]
        if len(tables) == 1:
            return first
        check_alike(tables)
        # An item that one seed lacks is lacking.
        common = {
            run: {
                task: mean_of([table.items[run][task] for table in tables]).tolist()
                for task in first.tasks
                if all(task in table.items.get(run, {}) for table in tables)
            }
            for run in (MINI, EQUAL)
        }
        items = {run: of_run for run, of_run in common.items() if of_run}
        mini, equal = (mean_of([getattr(table, run) for table in tables]).tolist() for run in (MINI, EQUAL))
        kept = {task for of_run in items.values() for task in of_run}
        clusters, strata = common_clusters(tables, kept), common_strata(tables, kept)
        return cls(first.tasks, mini, equal, items, clusters, first.transforms, tuple(tables), strata)

    @property
    def equal_is_one_training(self) -> bool:
        """Whether the equally weighted model of several seeds is one: the same scores by item under all."""
        found = [
            {task: list(values) for task, values in items.get(EQUAL, {}).items()}
            for items in self._items_by_seed()
        ]
        return len(found) > 1 and all(each == found[0] for each in found)

    def difficulty(self) -> Tensor:
        """D (N,) float64.

        Raises:
            ValueError: a score <= 0, where the ratio means nothing.
        """
        rows = torch.tensor([[*self.mini], [*self.equal]], dtype=torch.float64)
        part, whole = oriented(rows, tuple(self.tasks), dict(self.transforms))
        for task, mini, equal, *measured in zip(
            self.tasks, part.tolist(), whole.tolist(), self.mini, self.equal, strict=True
        ):
            if mini <= 0 or equal <= 0:
                raise ValueError(
                    f"scores: task {task!r}: the difficulty needs scores > 0, got {mini:g} with the mini "
                    f"subset and {equal:g} with equal weights; {remedy(task, self.transforms, *measured)}"
                )
        return difficulty_of(part, whole)

    def weights(
        self, *, temperature: float = 0.5, alpha: float = 0.5, fixed: Mapping[str, float] | None = None
    ) -> TaskWeights:
        """The weights, those of the estimated tasks summing to N.

        Raises:
            ValueError: as of `difficulty` and of `weights_from_signals`.
        """
        # A softmax over equal contributions is 1 for every task.
        unknown = torch.zeros(len(self.tasks), dtype=torch.float64)
        found = weights_from_signals(
            unknown,
            unknown,
            self.difficulty(),
            tasks=self.tasks,
            temperature=temperature,
            alpha=alpha,
            fixed=fixed,
        )
        scores = {MINI: list(self.mini), EQUAL: list(self.equal)}
        extra = {"mode": "no-probes", "scores": scores, "transforms": dict(self.transforms)}
        kept = {name: found.provenance[name] for name in ("tasks", "difficulty")}
        return dataclasses.replace(found, provenance=kept | extra)

    def seed_spread(self, **options: Any) -> dict[str, float]:
        """The standard deviation of each weight from seed to seed; empty below two seeds that allow weights.

        Args:
            options: those of `weights`.
        """
        found = []
        for table in self.by_seed:
            # The mean over seeds may allow what this seed's scores alone do not.
            with contextlib.suppress(ValueError):
                found.append(table.weights(**options))
        return spread(found)

    def intervals(
        self,
        *,
        temperature: float = 0.5,
        alpha: float = 0.5,
        level: float = 0.95,
        draws: int = 2000,
        seed: int = 0,
    ) -> Tensor | None:
        """(N, 2) float64: the weights' intervals by the bootstrap over items, the same ones in both models.

        Several seeds count as in `uncertainty`; one equally weighted model under all of them is taken to be
        as unsure as the mini run. None where `undefined` names a task: all weights need its difficulty.

        Raises:
            ValueError: there are no items, or a score that is not their mean.
        """
        D = self._drawn_difficulty(draws, seed)
        if not bool(D.isfinite().all()):
            return None
        nothing = torch.zeros_like(D)
        sources = [D, self._drawn_difficulty(draws, seed, ("seeds",))] if self.by_seed else [D]
        drawn, *alone = (
            weights_of("cotbal", nothing, nothing, each, temperature=temperature, alpha=alpha)
            for each in sources
        )
        if alone:
            drawn = stretched(drawn, alone[0], len(self.by_seed), level).clamp(0, len(self.tasks))
        return percentiles(drawn, level).T

    def undefined(self) -> dict[str, str]:
        """The tasks whose difficulty is not defined in every draw, each with the reason in words.

        Raises:
            ValueError: as of `intervals`.
        """
        return without_difficulty(self.tasks, self._drawn_difficulty(draws=2000, seed=0))

    def to_csv(self, path: str | Path) -> Path:
        """Return `path` after writing all but the items there: rows mini and equal."""
        rows: dict[str, Sequence[object]] = {MINI: self.mini, EQUAL: self.equal}
        if self.transforms:
            rows[TRANSFORM] = [self.transforms.get(task, "") for task in self.tasks]
        return write_score_csv(path, self.tasks, rows)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        items: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        clusters: Clusters | None = None,
        strata: Strata | None = None,
    ) -> TwoModels | None:
        """The scores in a file that `to_csv` wrote; None where the file is one with probes.

        Raises:
            OSError: the file cannot be read.
            ValueError: rows or cells that are missing, repeated or no numbers.
        """
        try:
            tasks, cells = read_score_csv(path)
            if tasks[0] in cells:
                return None
            mini, equal = (numbers(cells[row], tasks, row) for row in (MINI, EQUAL))
            named = zip(tasks, cells.get(TRANSFORM, [""] * len(tasks)), strict=True)
            transforms = {task: name for task, name in named if name}
            return cls(tasks, mini, equal, items or {}, clusters or {}, transforms, (), strata or {})
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from error

    def _items_by_seed(self) -> list[Mapping[str, Mapping[str, Sequence[float]]]]:
        return [table.items for table in self.by_seed or (self,)]

    def _drawn_difficulty(self, draws: int, seed: int, over: Sequence[str] = SOURCES) -> Tensor:
        """(draws, N): D in every draw, NaN where it has no value."""
        drawn = torch.stack([self._drawn(place, draws, seed, over) for place in range(len(self.tasks))], -1)
        if self.equal_is_one_training:
            runs = torch.tensor([[table.mini] for table in self.by_seed], dtype=torch.float64)
            drawn[:, 1] += between_trainings(runs, draws)
        scores = oriented_draws(drawn, tuple(self.tasks), dict(self.transforms))
        return difficulty_of(*scores.unbind(1))

    def _drawn(self, place: int, draws: int, seed: int, over: Sequence[str]) -> Tensor:
        """(draws, 2): the scores of a task in both models, in every draw of its items and the seeds."""
        task = self.tasks[place]
        mini, equal = (self.items.get(run, {}).get(task) for run in (MINI, EQUAL))
        if mini is None or equal is None or len(mini) != len(equal):
            raise ValueError(
                f"items: expected those of task {task!r} in {MINI} and {EQUAL}, the same ones; the "
                "intervals need them"
            )
        strata = self.strata.get(task)
        pair = balanced(torch.tensor([list(mini), list(equal)], dtype=torch.float64), strata)
        scores = torch.tensor([self.mini[place], self.equal[place]], dtype=torch.float64)
        if not torch.allclose(pair.mean(1), scores, rtol=1e-6, atol=1e-6):
            raise ValueError(
                f"items: expected the score of task {task!r} to be the mean of its items, or with strata the "
                "plain mean over them"
            )
        pairs = [[list(items[run][task]) for run in (MINI, EQUAL)] for items in self._items_by_seed()]
        return drawn_means(
            balanced(torch.tensor(pairs, dtype=torch.float64), strata),
            task,
            draws=draws,
            seed=seed_of(seed, task),
            over=over,
            clusters=self.clusters.get(task),
            strata=strata,
        )
