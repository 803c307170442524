"""Algorithm 1: mini run -> N probe runs -> scores -> contribution, difficulty -> weights -> final run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cotbal.estimate.plan import LateSpec, Results
from cotbal.estimate.rules import estimate_weights
from cotbal.estimate.scores import Scores
from cotbal.estimate.store import RunSpec
from cotbal.weights import TaskWeights


class Recipe(Protocol):
    """How the runs of Algorithm 1 are made; everything else about them is the recipe's own business.

    Every run starts from the same base model with the same settings; only data and weights differ.
    """

    @property
    def tasks(self) -> Sequence[str]:
        """The weighted tasks, in order."""

    @property
    def fixed(self) -> Mapping[str, float]:
        """Tasks that take no part in the estimate, with their weight in the final run."""

    @property
    def transforms(self) -> Mapping[str, str]:
        """How the scores of tasks where lower is better are turned, as of `Scores`."""

    def mini(self) -> RunSpec:
        """The run on the mini subsets of all weighted tasks."""

    def probe(self, task: str) -> RunSpec:
        """The run on the full set of `task` and the mini subsets of the other weighted tasks."""

    def alone(self, task: str, share: str) -> RunSpec:
        """The run on the "mini" or "full" set of `task` and nothing else (the precise difficulty)."""

    def final(self, rule: str, weights: Mapping[str, float]) -> RunSpec:
        """The run on all data under these weights; its name and steps do not depend on the weights."""

    def scored_by(self, run: RunSpec) -> tuple[str, ...]:
        """Names of the runs whose results hold the validation scores of this run's model, as itself may."""

    def validation_scores(self, run: RunSpec, results: Results) -> Mapping[str, float]:
        """V_j, as measured, of the model of a run: of every weighted task, or of its only one.

        Args:
            run: the mini run, a probe or a run on one task alone.
            results: those of `scored_by(run)` are among them.
        """

    def validation_items(self, run: RunSpec, results: Results) -> Mapping[str, Sequence[float]] | None:
        """The per-item scores behind V_j, None where they are not kept."""


@dataclass(frozen=True)
class Algorithm1:
    """Algorithm 1 over the runs of a recipe.

    Attributes:
        recipe: makes the runs.
        temperature: T of Eq. 5, 7 and 10.
        alpha: alpha of Eq. 11.
        on_unidentified: "raise" or "drop", as of `estimate_weights`.
        precise: take the difficulty from runs on each task alone, two more per task.
        shrink: pull noisy signals to their mean, as of `estimate_weights`.
    """

    recipe: Recipe
    temperature: float = 0.5
    alpha: float = 0.5
    on_unidentified: str = "raise"
    precise: bool = False
    shrink: bool = False

    def estimation_runs(self) -> list[RunSpec]:
        """The mini run, the N probe runs and, for the precise difficulty, 2 N runs on one task each.

        They wait for nothing but what the recipe says.
        """
        recipe = self.recipe
        runs = [recipe.mini(), *(recipe.probe(task) for task in recipe.tasks)]
        return [*runs, *self._alone("mini"), *self._alone("full")] if self.precise else runs

    def final_run(self, rule: str = "cotbal") -> LateSpec:
        """The final run under a rule's weights; it exists as soon as all scores do."""
        outline = self.recipe.final(rule, {**dict.fromkeys(self.recipe.tasks, 1.0), **self.recipe.fixed})

        def build(results: Results) -> RunSpec:
            return self.recipe.final(rule, self.weights(results, rule).weights)

        names = (name for run in self.estimation_runs() for name in self.recipe.scored_by(run))
        return LateSpec(outline.name, outline.steps, (*outline.needs, *names), build)

    def scores(self, results: Results) -> Scores:
        """The score table from the results of the runs that hold the scores, `{name: result}`."""
        recipe, tasks = self.recipe, list(self.recipe.tasks)
        runs = {"mini": recipe.mini(), **{task: recipe.probe(task) for task in tasks}}
        values = {name: recipe.validation_scores(run, results) for name, run in runs.items()}
        mini, *probes = ([values[name][task] for task in tasks] for name in runs)
        items = {name: recipe.validation_items(run, results) for name, run in runs.items()}
        kept = {name: {task: of_run[task] for task in tasks} for name, of_run in items.items() if of_run}
        return Scores(
            tasks,
            mini,
            probes,
            single_mini=self._single_scores("mini", results) if self.precise else None,
            single_full=self._single_scores("full", results) if self.precise else None,
            items=kept if len(kept) == len(runs) else None,
            transforms=recipe.transforms,
        )

    def weights(self, results: Results, rule: str = "cotbal") -> TaskWeights:
        """The task weights by a rule, the fixed tasks included, from the results of the scored runs."""
        return self.weights_of([self.scores(results)], rule)

    def weights_of(self, tables: Sequence[Scores], rule: str = "cotbal") -> TaskWeights:
        """The task weights by a rule from one score table, or from the mean of one per seed."""
        return estimate_weights(
            tables,
            rule=rule,
            temperature=self.temperature,
            alpha=self.alpha,
            fixed=dict(self.recipe.fixed) or None,
            precise=self.precise,
            on_unidentified=self.on_unidentified,
            shrink=self.shrink,
        )

    def _alone(self, share: str) -> list[RunSpec]:
        return [self.recipe.alone(task, share) for task in self.recipe.tasks]

    def _single_scores(self, share: str, results: Results) -> list[float]:
        runs = zip(self.recipe.tasks, self._alone(share), strict=True)
        return [self.recipe.validation_scores(run, results)[task] for task, run in runs]
