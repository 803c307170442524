"""Algorithm 1: mini run -> N probe runs -> scores -> contribution, difficulty -> weights -> final run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotbal.estimate.clusters import Clusters
from cotbal.estimate.items_json import write_items
from cotbal.estimate.no_probes import TwoModels
from cotbal.estimate.recipe import FULL, MINI, MODES, Recipe
from cotbal.estimate.rules import estimate_weights
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import pooled_scores
from cotbal.runs.plan import LateSpec, Results
from cotbal.runs.store import RunSpec
from cotbal.weights import TaskWeights


@dataclass(frozen=True)
class Algorithm1:
    """Algorithm 1 over the runs of a recipe.

    Attributes:
        recipe: makes the runs.
        temperature: T of Eq. 5, 7 and 10.
        alpha: alpha of Eq. 11.
        on_unidentified: "raise" or "drop", as of `estimate_weights`.
        precise: take the difficulty from runs on each task alone, two more per task.
        mode: a name in `MODES`.
        shrink: pull noisy signals to their mean, as of `estimate_weights`.
    """

    recipe: Recipe
    temperature: float = 0.5
    alpha: float = 0.5
    on_unidentified: str = "raise"
    precise: bool = False
    mode: str = "full"
    shrink: bool = False

    def estimation_runs(self) -> list[RunSpec]:
        """Those of the recipe in this mode, with the N pairs of the precise difficulty if asked for."""
        return self.recipe.estimation_runs(self.mode, self.precise)

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
        runs = {"mini": recipe.mini(), **recipe.probes(self.mode)}
        if MODES[self.mode].equal:
            runs["equal"] = recipe.equal()
        rows, items, clusters = self._measured(runs, results)
        return Scores(
            tasks,
            rows["mini"],
            [rows[task] for task in tasks],
            equal=rows.get("equal"),
            single_mini=self._single_scores(MINI, results) if self.precise else None,
            single_full=self._single_scores(FULL, results) if self.precise else None,
            items=items or None,
            clusters=clusters,
            transforms=recipe.transforms,
        )

    def two_models(self, results: Results) -> TwoModels:
        """The scores where there are no probes, from the results of the runs that hold them."""
        recipe, runs = self.recipe, {"mini": self.recipe.mini(), "equal": self.recipe.equal()}
        rows, items, clusters = self._measured(runs, results)
        return TwoModels(recipe.tasks, rows["mini"], rows["equal"], items, clusters, recipe.transforms)

    def weights(self, results: Results, rule: str = "cotbal") -> TaskWeights:
        """The task weights by a rule, the fixed tasks included, from the results of the scored runs.

        Raises:
            ValueError: the scores allow none, or a rule that needs probes.
        """
        return self.weights_of([self.table(results)], rule)

    def weights_of(self, tables: Sequence[Scores | TwoModels], rule: str = "cotbal") -> TaskWeights:
        """The task weights by a rule from one table of the mode, or from the mean of one per seed.

        Raises:
            ValueError: as of `weights`.
        """
        fixed = dict(self.recipe.fixed) or None
        pooled = self.pooled(tables)
        if isinstance(pooled, TwoModels):
            if rule != "cotbal":
                raise ValueError(f"rule: expected 'cotbal' where there are no probes, got {rule!r}")
            return pooled.weights(temperature=self.temperature, alpha=self.alpha, fixed=fixed)
        return estimate_weights(
            [table for table in tables if isinstance(table, Scores)],
            rule=rule,
            temperature=self.temperature,
            alpha=self.alpha,
            fixed=fixed,
            precise=self.precise,
            on_unidentified=self.on_unidentified,
            shrink=self.shrink,
        )

    def pooled(self, tables: Sequence[Scores | TwoModels]) -> Scores | TwoModels:
        """The mean of the tables of several seeds, all of one mode."""
        models = [table for table in tables if isinstance(table, TwoModels)]
        if models:
            return TwoModels.pooled(models)
        return pooled_scores([table for table in tables if isinstance(table, Scores)])

    def table(self, results: Results) -> Scores | TwoModels:
        """The scores of the mode: with probes, or of two models."""
        return self.two_models(results) if MODES[self.mode].share is None else self.scores(results)

    def write_scores(self, scores: Scores | TwoModels, folder: Path) -> dict[str, Path]:
        """Writes the table as "scores", scores.csv, and where there are items "items", items.json.

        Raises:
            OSError: the disk cannot take a file; it is then as it was before.
        """
        written = {"scores": scores.to_csv(folder / "scores.csv")}
        if scores.items:
            written["items"] = write_items(
                folder / "items.json", scores.items, scores.clusters, scores.strata
            )
        return written

    def _measured(
        self, runs: Mapping[str, RunSpec], results: Results
    ) -> tuple[dict[str, list[float]], dict[str, dict[str, Sequence[float]]], Clusters]:
        """By run the scores in the tasks' order; those by item of the tasks that have some in every run."""
        recipe, tasks = self.recipe, self.recipe.tasks
        values = {name: recipe.validation_scores(run, results) for name, run in runs.items()}
        rows = {name: [values[name][task] for task in tasks] for name in runs}
        items = {name: recipe.validation_items(run, results) or {} for name, run in runs.items()}
        kept = [task for task in tasks if all(task in of_run for of_run in items.values())]
        if not kept:
            return rows, {}, {}
        common = {name: {task: of_run[task] for task in kept} for name, of_run in items.items()}
        return rows, common, self._clusters(runs, results, kept)

    def _clusters(self, runs: Mapping[str, RunSpec], results: Results, tasks: Sequence[str]) -> Clusters:
        """Those of these tasks in all models; other ones mean other items, or another order of them."""
        by_run = {name: self.recipe.validation_clusters(run, results) for name, run in runs.items()}
        first = by_run[MINI]
        for name, clusters in by_run.items():
            if others := [task for task in tasks if clusters.get(task) != first.get(task)]:
                raise ValueError(
                    f"clusters: task {others[0]!r}: expected those of run {MINI!r} in every run, got others "
                    f"in run {name!r}; every model must be scored on the same items in the same order"
                )
        return {task: first[task] for task in tasks if task in first}

    def _single_scores(self, share: str, results: Results) -> list[float]:
        runs = {task: self.recipe.alone(task, share) for task in self.recipe.tasks}
        return [self.recipe.validation_scores(run, results)[task] for task, run in runs.items()]
