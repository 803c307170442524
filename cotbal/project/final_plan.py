"""The plan of final models: which trainings, tests and runs of the estimate the asked methods need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.recipe import MODES
from cotbal.project.config import Project
from cotbal.project.data import Data
from cotbal.project.methods import EW, STL, Method
from cotbal.project.outcome import algorithm
from cotbal.project.outline import outline, recorded, throughput, totals
from cotbal.project.recipe import GIVEN, ProjectRecipe, plan_of, recipes
from cotbal.runs.plan import Plan, Results
from cotbal.runs.store import RunSpec, Store
from cotbal.weights import TaskWeights


class Waiting(NamedTuple):
    """The runs that weights wait for."""

    specs: list[RunSpec]


@dataclass
class FinalPlan:
    """What methods need.

    Attributes:
        plan: every run whose command is known.
        trainings: the models of each method and seed, where the weights are known.
        waiting: the trainings and tests whose weights follow from runs of the plan; theirs are not yet known.
    """

    plan: Plan
    trainings: dict[tuple[str, int], list[RunSpec]]
    waiting: dict[str, list[RunSpec]]


def final_plan(project: Project, data: Data, methods: Iterable[Method], store: Store) -> FinalPlan:
    """The trainings and tests of methods, and the runs that their weights still wait for.

    Raises:
        ValueError: the file's own estimate is not finished, its scores allow no weights, or the training
            command takes none.
    """
    specs: dict[str, RunSpec] = {}
    trainings: dict[tuple[str, int], list[RunSpec]] = {}
    waiting: dict[str, list[RunSpec]] = {}
    by_seed, estimate = recipes(project, data), plan_of(project, data)
    for method in methods:
        _check_weights_arrive(project, method)
        weights = _weights(method, list(by_seed.values()), estimate, store) if method.rule else None
        if isinstance(weights, Waiting):
            specs |= {spec.name: spec for spec in weights.specs}
        for seed, recipe in by_seed.items():
            if isinstance(weights, Waiting):
                late = recipe.mixture(method.run_name(project), _ones(recipe))
                waiting[late.name] = _with_tests(recipe, late)
                continue
            trainings[method.name, seed] = _trainings(recipe, method, weights)
            runs = trainings[method.name, seed]
            specs |= {spec.name: spec for run in runs for spec in _with_tests(recipe, run)}
    return FinalPlan(Plan(list(specs.values())), trainings, waiting)


def left_to_do(project: Project, data: Data, wanted: FinalPlan, store: Store) -> dict[str, Any]:
    """As `outline`, each run with its "state" (finished, to do, waits), and the totals of those to be done.

    The command of a run that waits for weights is None: it is known with them.
    """
    late = [spec for specs in wanted.waiting.values() for spec in specs]
    return outlined(project, data, wanted.plan, store, late)


def outlined(
    project: Project, data: Data, plan: Plan, store: Store, late: Sequence[RunSpec] = ()
) -> dict[str, Any]:
    """As `left_to_do`, of a plan and of the runs that wait for it."""
    whole = Plan([*(plan[name] for name in plan), *late])
    done = recorded(plan, store)
    content = outline(project, data, whole, throughput(project, plan, done))
    names = {spec.name for spec in late}
    runs = []
    for run in content["runs"]:
        if run["name"] in names:
            runs.append({**run, "state": "waits", "command": None})
        else:
            runs.append({**run, "state": "finished" if run["name"] in done else "to do"})
    left = [run for run in runs if run["state"] != "finished"]
    return {**content, "runs": runs, "totals": totals(project, data, left)}


def finished(plan: Plan, store: Store) -> Results:
    """The results on disk of the runs of a plan, by name."""
    return {name: record.result for name, record in recorded(plan, store).items()}


def _check_weights_arrive(project: Project, method: Method) -> None:
    needed = method.kind not in (STL, EW) or (method.kind == EW and set(project.fixed.values()) - {1.0})
    if needed and not project.train.takes_weights:
        keep = "; keep the command of now as train.probe_command, and what is finished counts"
        raise ValueError(
            f"train.command: method {method.name} needs {{weights}} in it, the file with the weights or the "
            "rule; without it every method would train the same model. Put it in"
            f"{'' if project.train.probe_command else keep}"
        )


def _trainings(recipe: ProjectRecipe, method: Method, weights: TaskWeights | None) -> list[RunSpec]:
    """The trainings of a method under a seed, those of Algorithm 1 under the weights."""
    name = method.run_name(recipe.project)
    if method.kind == STL:
        return [recipe.single(task) for task in recipe.tasks]
    if method.kind == EW and MODES[recipe.project.mode].equal:
        return [recipe.equal()]
    if method.kind == EW:
        weights = _ones(recipe)
    return [recipe.mixture(name, weights or method.weighting(recipe.fixed, recipe.seed))]


def _weights(
    method: Method, by_seed: Sequence[ProjectRecipe], estimate: Plan, store: Store
) -> TaskWeights | Waiting:
    """The weights of a method of Algorithm 1, of the mean scores over the seeds, or what they wait for.

    Raises:
        ValueError: the file's own estimate is not finished, or the scores allow no weights.
    """
    assert method.rule is not None
    _check_estimate(estimate, store)
    sources = [(recipe, _algorithm(recipe, method)) for recipe in by_seed]
    specs = [
        spec
        for recipe, source in sources
        for run in source.estimation_runs()
        for spec in _with_evaluations(recipe, run)
    ]
    results = finished(Plan(specs), store)
    if len(results) < len(specs):
        return Waiting(specs)
    try:
        _, first = sources[0]
        return first.weights_of([source.table(results) for _, source in sources], method.rule)
    except ValueError as error:
        raise ValueError(f"method {method.name}: {error}") from error


def _ones(recipe: ProjectRecipe) -> TaskWeights:
    equal = {**dict.fromkeys(recipe.tasks, 1.0), **recipe.fixed}
    return TaskWeights(equal, rule="equal", fixed=dict(recipe.fixed))


def _with_tests(recipe: ProjectRecipe, run: RunSpec) -> list[RunSpec]:
    return [*([] if run.function == GIVEN else [run]), *recipe.tests(run).values()]


def _with_evaluations(recipe: ProjectRecipe, run: RunSpec) -> list[RunSpec]:
    return [*([] if run.function == GIVEN else [run]), *recipe.evaluations(run)]


def _algorithm(recipe: ProjectRecipe, method: Method) -> Algorithm1:
    options = method.options
    of_file = algorithm(recipe)
    return replace(
        of_file,
        temperature=options["T"],
        alpha=options.get("alpha", of_file.alpha),
        precise=options.get("D") == "precise",
    )


def _check_estimate(estimate: Plan, store: Store) -> None:
    done = recorded(estimate, store)
    if lost := [name for name in estimate if name not in done]:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(
            f"the estimate is not finished: {len(lost)} of {len(estimate)} runs are missing "
            f"({', '.join(lost[:3])}{more}); `cotbal run` with the same options does them"
        )
