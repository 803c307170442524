"""Algorithm 1: mini run -> N probe runs -> scores -> contribution, difficulty -> weights -> final run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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

    def mini(self) -> RunSpec:
        """The run on the mini subsets of all weighted tasks."""

    def probe(self, task: str) -> RunSpec:
        """The run on the full set of `task` and the mini subsets of the other weighted tasks."""

    def final(self, rule: str, weights: Mapping[str, float]) -> RunSpec:
        """The run on all data under these weights; its name and steps do not depend on the weights."""

    def validation_scores(self, result: Mapping[str, Any]) -> Mapping[str, float]:
        """V_j of every weighted task from the result of the mini run or a probe, higher is better."""

    def validation_items(self, result: Mapping[str, Any]) -> Mapping[str, Sequence[float]] | None:
        """The per-item scores behind V_j, None where they are not kept."""


@dataclass(frozen=True)
class Algorithm1:
    """Algorithm 1 over the runs of a recipe.

    Attributes:
        recipe: makes the runs.
        temperature: T of Eq. 5, 7 and 10.
        alpha: alpha of Eq. 11.
        on_unidentified: "raise" or "drop", as of `estimate_weights`.
    """

    recipe: Recipe
    temperature: float = 0.5
    alpha: float = 0.5
    on_unidentified: str = "raise"

    def estimation_runs(self) -> list[RunSpec]:
        """The mini run and the N probe runs, which wait for nothing but what the recipe says."""
        return [self.recipe.mini(), *(self.recipe.probe(task) for task in self.recipe.tasks)]

    def final_run(self, rule: str = "cotbal") -> LateSpec:
        """The final run under a rule's weights; it exists as soon as all estimation runs have finished."""
        outline = self.recipe.final(rule, {**dict.fromkeys(self.recipe.tasks, 1.0), **self.recipe.fixed})

        def build(results: Results) -> RunSpec:
            return self.recipe.final(rule, self.weights(results, rule).weights)

        names = (spec.name for spec in self.estimation_runs())
        return LateSpec(outline.name, outline.steps, (*outline.needs, *names), build)

    def scores(self, results: Results) -> Scores:
        """The score table from the results of the estimation runs, `{name: result}`."""
        recipe, tasks = self.recipe, list(self.recipe.tasks)
        mini, *probes = (results[spec.name] for spec in self.estimation_runs())
        table = [[recipe.validation_scores(result)[task] for task in tasks] for result in (mini, *probes)]
        runs = dict(zip(("mini", *tasks), (mini, *probes), strict=True))
        items = {run: recipe.validation_items(result) for run, result in runs.items()}
        kept = {run: {task: of_run[task] for task in tasks} for run, of_run in items.items() if of_run}
        return Scores(tasks, table[0], table[1:], items=kept if len(kept) == len(runs) else None)

    def weights(self, results: Results, rule: str = "cotbal") -> TaskWeights:
        """The task weights by a rule, the fixed tasks included, from the results of the estimation runs."""
        return estimate_weights(
            self.scores(results),
            rule=rule,
            temperature=self.temperature,
            alpha=self.alpha,
            fixed=dict(self.recipe.fixed) or None,
            on_unidentified=self.on_unidentified,
        )
