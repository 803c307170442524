"""What comes of the runs of an estimate: score tables, weights, and their files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.no_probes import TwoModels
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import spread
from cotbal.project.config import Project
from cotbal.project.data import Data
from cotbal.project.recipe import ProjectRecipe, recipes
from cotbal.runs.execution import Execution
from cotbal.runs.plan import Plan, Results
from cotbal.weights import TaskWeights


@dataclass
class Outcome:
    """What has come of a session.

    Attributes:
        plan: the runs.
        failures: the runs that were given up, with the reason.
        missing: the runs that are not finished, those that failed among them.
        files: what was written, by what it is.
        tables: the scores of each seed that has them all.
        weights: the weights of each seed that has all its scores.
        refused: for each seed whose scores allow no weights, why.
        pooled: the weights of the mean over several seeds, once all have their scores.
        spread: the standard deviation of each weight from seed to seed.
        refused_pooled: why that mean allows no weights.
        stale: files of an earlier start that these runs have not written anew.
    """

    plan: Plan
    failures: dict[str, str]
    missing: list[str]
    files: dict[str, Path] = field(default_factory=dict)
    tables: dict[int, Scores | TwoModels] = field(default_factory=dict)
    weights: dict[int, TaskWeights] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    pooled: TaskWeights | None = None
    spread: dict[str, float] = field(default_factory=dict)
    refused_pooled: str | None = None
    stale: list[Path] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every seed has its weights."""
        return not self.missing and not self.refused and self.refused_pooled is None


def algorithm(recipe: ProjectRecipe) -> Algorithm1:
    """Algorithm 1 over a recipe, as its file says."""
    project = recipe.project
    return Algorithm1(
        recipe,
        project.temperature,
        project.alpha,
        project.on_unidentified,
        project.precise,
        project.mode,
        project.shrink,
    )


def other_weights(path: Path, weights: Mapping[str, float]) -> str | None:
    """How a file's weights differ from these, but for the last digits of another machine.

    Args:
        path: the file.
        weights: of every task.

    Returns:
        The first difference in words; None where there is none, or no file.
    """
    if not path.exists():
        return None
    try:
        found = TaskWeights.load(path).weights
    except ValueError as error:
        return str(error)
    for task in {**weights, **found}:
        here, there = weights.get(task, math.nan), found.get(task, math.nan)
        if not math.isclose(here, there, rel_tol=1e-6):
            return f"task {task!r}: {there:g} there, {here:g} here"
    return None


def outcome_of(project: Project, data: Data, plan: Plan, execution: Execution) -> Outcome:
    """Writes the scores and weights of every seed whose runs are finished; says what is missing or refused.

    Raises:
        OSError: the disk cannot take a file; it is then as it was before.
    """
    outcome = Outcome(plan, execution.failures, [name for name in plan if name not in execution.records])
    results = {name: record.result for name, record in execution.records.items()}
    by_seed = recipes(project, data)
    tables = {seed: _estimate(recipe, results, outcome) for seed, recipe in by_seed.items()}
    outcome.tables = {seed: scores for seed, scores in tables.items() if scores is not None}
    if 1 < len(outcome.tables) == len(tables):
        _pool(algorithm(next(iter(by_seed.values()))), project, list(outcome.tables.values()), outcome)
    folders = [project.out, *sorted(project.out.glob("seed-*"))]
    left = [folder / name for folder in folders for name in ("scores.csv", "items.json", "weights.json")]
    outcome.stale = [path for path in left if path.exists() and path not in outcome.files.values()]
    return outcome


def _estimate(recipe: ProjectRecipe, results: Results, outcome: Outcome) -> Scores | TwoModels | None:
    """Writes scores.csv, items.json and weights.json of a seed whose scores are all there; returns those."""
    project, seed = recipe.project, recipe.seed
    method = algorithm(recipe)
    needed = [name for run in method.estimation_runs() for name in recipe.scored_by(run)]
    if any(name not in results for name in needed):
        return None
    several = len(project.seeds) > 1
    folder, of_seed = project.out / (f"seed-{seed}" if several else ""), f", seed {seed}" if several else ""
    scores = None
    try:
        scores = method.table(results)
        written = method.write_scores(scores, folder)
        outcome.files |= {f"{name}{of_seed}": path for name, path in written.items()}
        outcome.weights[seed] = method.weights_of([scores], project.rule)
        outcome.files[f"weights{of_seed}"] = outcome.weights[seed].save(folder / "weights.json")
    except ValueError as error:
        outcome.refused[seed] = str(error)
    return scores


def _pool(method: Algorithm1, project: Project, tables: list[Scores | TwoModels], outcome: Outcome) -> None:
    """Writes the weights of the mean over all seeds, with their spread from seed to seed."""
    try:
        outcome.files["scores"] = method.pooled(tables).to_csv(project.out / "scores.csv")
        pooled = method.weights_of(tables, project.rule)
    except ValueError as error:
        outcome.refused_pooled = str(error)
        return
    by_seed = {str(seed): dict(weights) for seed, weights in outcome.weights.items()}
    outcome.spread = spread(list(outcome.weights.values()))
    found = {"seeds": by_seed} | ({"seed_sd": outcome.spread} if outcome.spread else {})
    outcome.pooled = dataclasses.replace(pooled, provenance={**pooled.provenance, **found})
    outcome.files["weights"] = outcome.pooled.save(project.out / "weights.json")
