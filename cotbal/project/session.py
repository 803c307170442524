"""A whole estimate in one call: the data, the runs that are still to do, and the weights that follow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.no_probes import TwoModels
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import spread
from cotbal.files import write_json
from cotbal.project.agreement import Watch
from cotbal.project.changes import done_again, in_words
from cotbal.project.config import Project
from cotbal.project.data import prepare
from cotbal.project.outline import check_budget, outline, recorded, throughput
from cotbal.project.recipe import ProjectRecipe, algorithm, plan_of, recipes
from cotbal.project.slurm.driver import work_on_slurm
from cotbal.project.slurm.tickets import refuse_beside_jobs
from cotbal.runs.execution import Execution
from cotbal.runs.plan import Plan, Results
from cotbal.runs.pool import Crew, Listener, work_on
from cotbal.runs.store import Record, Store, locked
from cotbal.weights import TaskWeights


@dataclass
class Outcome:
    """What has come of a session.

    Attributes:
        plan: the runs.
        failures: the runs that were given up, with the reason.
        missing: the runs that are not finished, those that failed among them.
        files: what was written, by what it is.
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


def store_of(project: Project) -> Store:
    """Where the runs of a project are; what is installed here says nothing about the user's commands."""
    return Store(project.out, {})


def run_project(project: Project, listener: Callable[[], AbstractContextManager[Listener]]) -> Outcome:
    """Runs what the output folder does not hold yet; a run that fails for good does not stop the others.

    A kill at any moment loses the running runs only; the same call then continues.

    Args:
        project: the estimate.
        listener: opens the view on the progress.

    Raises:
        OutputInUseError: another process works in the output folder.
        ValueError: the data cannot be read, there are fewer GPUs than the file says, or the budget is less.
        OSError: a file cannot be read, the disk cannot take one, or Slurm cannot be reached.
    """
    with locked(project.out):
        data = prepare(project)
        plan = plan_of(project, data)
        store = store_of(project)
        finished = recorded(plan, store)
        content = outline(project, data, plan, throughput(project, plan, finished))
        write_json(project.out / "plan.json", content)
        check_budget(project, content["totals"])
        again = done_again(plan, finished, project.out)
        with listener() as progress:
            if again:
                progress.noted(in_words(again))
            execution = work(project, plan, store, progress)
        outcome = Outcome(plan, execution.failures, [name for name in plan if name not in execution.records])
        results = {name: record.result for name, record in execution.records.items()}
        by_seed = recipes(project, data)
        tables = {seed: _estimate(recipe, results, outcome) for seed, recipe in by_seed.items()}
        complete = [scores for scores in tables.values() if scores is not None]
        if 1 < len(complete) == len(tables):
            _pool(algorithm(next(iter(by_seed.values()))), project, complete, outcome)
        folders = [project.out, *(project.out / f"seed-{seed}" for seed in project.seeds)]
        left = [folder / name for folder in folders for name in ("scores.csv", "items.json", "weights.json")]
        outcome.stale = [path for path in left if path.exists() and path not in outcome.files.values()]
        return outcome


def work(project: Project, plan: Plan, store: Store, listener: Listener) -> Execution:
    """Runs what a plan still needs, here or as jobs, and keeps its state on disk; hold the folder around it.

    Args:
        project: says what the runs may use.
        plan: the runs.
        store: where their results are.
        listener: is told what happens.

    Raises:
        ValueError: there are fewer GPUs than the file says.
        OSError: the disk cannot take a file, or Slurm cannot be reached.
    """
    resources, noted = project.resources, Watch(project.out, listener)
    if resources.executor == "slurm":
        return work_on_slurm(plan, store, noted, resources)
    refuse_beside_jobs(project.out)
    environments = resources.environments(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return work_on(plan, store, noted, Crew(environments, resources.retries, keep_going=True))


def headline(record: Record) -> str:
    """The score of a finished evaluation, the samples of a finished training."""
    if "score" in record.result:
        return f"score {record.result['score']:.4g}"
    return f"{record.result['samples']} samples"


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
