"""The final models of a project: which trainings and tests the asked methods need, and what they came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cotbal.compare import Column, Finals, Model, write_finals
from cotbal.estimate.algorithm1 import MODES, Algorithm1
from cotbal.estimate.plan import Plan, Results
from cotbal.estimate.pool import Listener
from cotbal.estimate.store import RunSpec, Store, locked
from cotbal.project.config import Project
from cotbal.project.data import Data, prepare
from cotbal.project.methods import EW, STL, Method, parse_method
from cotbal.project.outline import check_budget, outline, run_keys, throughput, totals
from cotbal.project.recipe import GIVEN, ProjectRecipe, algorithm, plan_of, recipes
from cotbal.project.session import store_of, work
from cotbal.project.template import placeholders
from cotbal.weights import TaskWeights

FINALS_FILE = "finals.json"


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


@dataclass
class FinalOutcome:
    """What has come of a session.

    Attributes:
        plan: the runs.
        failures: the runs that were given up, with the reason.
        missing: the runs that are not finished, and the methods that wait for them.
        finals: the models of all methods that were ever asked for.
        files: what was written, by what it is.
    """

    plan: Plan
    failures: dict[str, str]
    missing: list[str]
    finals: Finals
    files: dict[str, Path] = field(default_factory=dict)


def run_finals(
    project: Project, methods: Sequence[Method], listener: Callable[[], AbstractContextManager[Listener]]
) -> FinalOutcome:
    """Trains and tests what the methods still need, and writes finals.json.

    A kill at any moment loses the running runs only; the same call then continues.

    Args:
        project: the file.
        methods: the methods.
        listener: opens the view on the progress.

    Raises:
        ValueError: the estimate is not finished, weights cannot reach the training, or the budget is less.
        OutputInUseError, OSError: as of `cotbal.project.session.run_project`.
    """
    with locked(project.out):
        data, store = prepare(project), store_of(project)
        failures: dict[str, str] = {}
        asked = [*known_methods(project), *methods]
        # From now on `cotbal status` knows them.
        write_finals(project.out / FINALS_FILE, collected(project, data, asked, store))
        # Weights that need more than the estimate, such as the precise difficulty, are known after a round.
        for _ in range(2):
            wanted = final_plan(project, data, methods, store)
            check_budget(project, left_to_do(project, data, wanted, store)["totals"])
            with listener() as progress:
                execution = work(project, wanted.plan, store, progress)
            failures |= execution.failures
            if not wanted.waiting or execution.failures:
                break
        missing = [name for name in wanted.plan if name not in execution.records]
        missing += list(wanted.waiting)
        finals = collected(project, data, asked, store)
        path = write_finals(project.out / FINALS_FILE, finals)
        return FinalOutcome(wanted.plan, failures, missing, finals, {"finals": path})


def final_plan(project: Project, data: Data, methods: Iterable[Method], store: Store) -> FinalPlan:
    """The trainings and tests of methods, and the runs that their weights still wait for.

    Raises:
        ValueError: the file's own estimate is not finished, its scores allow no weights, or the training
            command takes none.
    """
    specs: dict[str, RunSpec] = {}
    trainings: dict[tuple[str, int], list[RunSpec]] = {}
    waiting: dict[str, list[RunSpec]] = {}
    estimate = plan_of(project, data)
    for method in methods:
        _check_weights_arrive(project, method)
        for seed, recipe in recipes(project, data).items():
            found = _trainings(recipe, method, estimate, store)
            if isinstance(found, Waiting):
                specs |= {spec.name: spec for spec in found.specs}
                outlined = recipe.mixture(method.run_name(project), _ones(recipe))
                waiting[outlined.name] = _with_tests(recipe, outlined)
                continue
            trainings[method.name, seed] = found
            specs |= {spec.name: spec for run in found for spec in _with_tests(recipe, run)}
    return FinalPlan(Plan(list(specs.values())), trainings, waiting)


def known_methods(project: Project) -> list[Method]:
    """The methods that were asked for before and that the file still allows."""
    try:
        content = json.loads((project.out / FINALS_FILE).read_text(encoding="utf-8"))
        names = list(content["methods"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = []
    for name in names:
        try:
            found.append(parse_method(name, project))
        except ValueError:
            continue
    return found


def collected(project: Project, data: Data, methods: Iterable[Method], store: Store) -> Finals:
    """What the models of methods scored so far."""
    distinct = {method.name: method for method in methods}.values()
    models: dict[str, dict[int, Model]] = {}
    for method in distinct:
        try:
            wanted = final_plan(project, data, [method], store)
        except ValueError:
            # Its estimate is not, or no longer, finished.
            models[method.name] = {}
            continue
        results, keys = finished(wanted.plan, store), run_keys(wanted.plan)
        models[method.name] = {
            seed: _model(recipe, wanted.trainings.get((method.name, seed), []), results, keys)
            for seed, recipe in recipes(project, data).items()
        }
    return Finals(columns(project), models)


def columns(project: Project) -> tuple[Column, ...]:
    """The test sets of every weighted task; the validation file where there is none."""
    found = []
    for name in project.weighted:
        task = project.tasks[name]
        source = "test" if task.tests else "validation"
        found += [Column(name, test, task.metric, task.better, source) for test in task.tests or [""]]
    return tuple(found)


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
    content = outline(project, data, whole, throughput(project, plan, store))
    names = {spec.name for spec in late}
    runs = []
    for run in content["runs"]:
        if run["name"] in names:
            runs.append({**run, "state": "waits", "command": None})
        else:
            runs.append({**run, "state": "to do" if store.record(run["key"]) is None else "finished"})
    left = [run for run in runs if run["state"] != "finished"]
    return {**content, "runs": runs, "totals": totals(project, data, left)}


def finished(plan: Plan, store: Store) -> Results:
    """The results on disk of the runs of a plan, by name."""
    records = {name: store.record(key) for name, key in run_keys(plan).items()}
    return {name: record.result for name, record in records.items() if record is not None}


def same_models(methods: Iterable[Method]) -> dict[str, str]:
    """{method: the first one that is the same} of the methods that are others under another name."""
    first: list[Method] = []
    same = {}
    for method in methods:
        equal = next((other for other in first if other == method), None)
        if equal is None:
            first.append(method)
        elif equal.name != method.name:
            same[method.name] = equal.name
    return same


def _check_weights_arrive(project: Project, method: Method) -> None:
    needed = method.kind not in (STL, EW) or (method.kind == EW and set(project.fixed.values()) - {1.0})
    if needed and "weights" not in placeholders(project.train.command):
        raise ValueError(
            f"train.command: method {method.name} needs {{weights}} in it, the file with the weights or the "
            "rule; without it every method would train the same model"
        )


def _trainings(
    recipe: ProjectRecipe, method: Method, estimate: Plan, store: Store
) -> list[RunSpec] | Waiting:
    """The trainings of a method under a seed, or the runs that its weights wait for."""
    project, name = recipe.project, method.run_name(recipe.project)
    if method.kind == STL:
        return [recipe.single(task) for task in recipe.tasks]
    if method.kind == EW:
        if MODES[project.mode].equal:
            return [recipe.equal()]
        return [recipe.mixture(EW, _ones(recipe))]
    if method.rule is None:
        return [recipe.mixture(name, method.weighting(recipe.fixed, recipe.seed))]
    _check_estimate(estimate, store)
    source = _algorithm(recipe, method)
    specs = [spec for run in source.estimation_runs() for spec in _with_evaluations(recipe, run)]
    plan = Plan(specs)
    results = finished(plan, store)
    if len(results) < len(plan):
        return Waiting(specs)
    try:
        return [recipe.mixture(name, source.weights(results, method.rule))]
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
    lost = [name for name, key in run_keys(estimate).items() if store.record(key) is None]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(
            f"the estimate is not finished: {len(lost)} of {len(estimate)} runs are missing "
            f"({', '.join(lost[:3])}{more}); `cotbal run` with the same options does them"
        )


def _model(
    recipe: ProjectRecipe, runs: Sequence[RunSpec], results: Results, keys: Mapping[str, str]
) -> Model:
    scores, items = {}, {}
    by_name = {(column.task, column.test): column.name for column in columns(recipe.project)}
    for run in runs:
        for place, spec in recipe.tests(run).items():
            result = results.get(spec.name)
            if result is not None:
                scores[by_name[place]] = result["score"]
                if result["items"]:
                    items[by_name[place]] = result["items"]
    return Model(scores, items, _details(recipe, runs, results, keys))


def _details(
    recipe: ProjectRecipe, runs: Sequence[RunSpec], results: Results, keys: Mapping[str, str]
) -> dict[str, Any]:
    folders = {
        run.name: str(recipe.project.out / results[run.name]["output"]) if run.name in results else None
        for run in runs
        if run.function != GIVEN
    }
    folders |= {run.name: run.context["model"] for run in runs if run.function == GIVEN}
    settings = runs[0].settings if len(runs) == 1 else {}
    return {
        "models": folders,
        "keys": {run.name: keys[run.name] for run in runs if run.name in keys},
        "weights": settings.get("weights"),
        "rule": settings.get("rule"),
    }
