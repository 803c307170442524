"""Score against share of the data (the paper's figure 1b): probes on more and more of each task.

The rung of a share has that share of a task and the mini subsets of the others; the lowest is the mini run,
the highest the task's own probe, so both are there where the estimate is. The subsets are nested.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction

from cotbal.compare.shares import Rungs
from cotbal.estimate.recipe import FULL, HALF, MINI, QUARTER
from cotbal.project.config import Project
from cotbal.project.data import Data, prepare
from cotbal.project.final_plan import finished, outlined
from cotbal.project.outline import check_budget
from cotbal.project.recipe import ProjectRecipe, recipes
from cotbal.project.work import store_of, work
from cotbal.runs.plan import Plan
from cotbal.runs.pool import Listener
from cotbal.runs.store import RunSpec, Store, locked

EIGHTH = "1/8"
SHARES = (EIGHTH, QUARTER, HALF)


@dataclass
class RungOutcome:
    """What has come of a session.

    Attributes:
        failures: the runs that were given up, with the reason.
        missing: the runs that are not finished.
        rungs: the scores, of the tasks that have all of theirs.
    """

    failures: dict[str, str]
    missing: list[str]
    rungs: Rungs


def shares(project: Project) -> list[str]:
    """The shares between the mini subset and all data."""
    return [share for share in SHARES if Fraction(share) > project.ratio]


def rung_data(project: Project) -> Data:
    """The data of a project with the subsets of the rungs."""
    return prepare(project, shares(project))


def rung_plan(project: Project, data: Data) -> Plan:
    """The trainings of all rungs, each scored on its own task."""
    specs: dict[str, RunSpec] = {}
    for recipe in recipes(project, data).values():
        for pair in _rungs(recipe).values():
            specs |= {spec.name: spec for spec in pair}
    return Plan(list(specs.values()))


def run_rungs(project: Project, listener: Callable[[], AbstractContextManager[Listener]]) -> RungOutcome:
    """Runs the rungs that are missing; otherwise as `cotbal.project.finals.run_finals`."""
    with locked(project.out):
        data, store = rung_data(project), store_of(project)
        plan = rung_plan(project, data)
        check_budget(project, outlined(project, data, plan, store)["totals"], "raise the budget")
        with listener() as progress:
            execution = work(project, plan, store, progress)
        missing = [name for name in plan if name not in execution.records]
        return RungOutcome(execution.failures, missing, measured(project, data, store))


def measured(project: Project, data: Data, store: Store) -> Rungs:
    """The scores of the tasks whose rungs are all finished under every seed."""
    results = finished(rung_plan(project, data), store)
    known = [MINI, *shares(project), FULL]
    tasks = project.tasks
    rungs = Rungs(
        {share: float(_ratio(project, share)) for share in known},
        {name: tasks[name].metric for name in project.weighted},
        {name: tasks[name].transform or "" for name in project.weighted},
    )
    for recipe in recipes(project, data).values():
        named = _rungs(recipe)
        for task in project.weighted:
            found = [results[name] for share in known if (name := named[task, share][1].name) in results]
            if len(found) == len(known):
                rungs.scores.setdefault(task, []).append([result["score"] for result in found])
                rungs.items.setdefault(task, []).append([result["items"] for result in found])
                rungs.clusters.setdefault(task, []).append([result.get("clusters") for result in found])
    seeds = len(project.seeds)
    for task in [task for task, by_seed in rungs.scores.items() if len(by_seed) < seeds]:
        del rungs.scores[task], rungs.items[task], rungs.clusters[task]
    return rungs


def _ratio(project: Project, share: str) -> Fraction:
    return {MINI: project.ratio, FULL: Fraction(1)}.get(share) or Fraction(share)


def _rungs(recipe: ProjectRecipe) -> dict[tuple[str, str], tuple[RunSpec, RunSpec]]:
    """The training and the evaluation of each task and share."""
    found = {}
    for task in recipe.tasks:
        for share in (MINI, *shares(recipe.project), FULL):
            run = _training(recipe, task, share)
            (own,) = [spec for spec in recipe.evaluations(run) if spec.settings["task"] == task]
            found[task, share] = (run, own)
    return found


def _training(recipe: ProjectRecipe, task: str, share: str) -> RunSpec:
    if share == MINI:
        return recipe.mini()
    if share == EIGHTH:
        return recipe.training(f"eighth probe {task}", {**dict.fromkeys(recipe.tasks, MINI), task: EIGHTH})
    return recipe.probe(task, share)
