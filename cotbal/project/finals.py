"""The final models of a project: trained and tested, and what they scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotbal.compare import Column, Finals, Model, add_clusters, write_finals
from cotbal.project.config import Project
from cotbal.project.data import Data, prepare
from cotbal.project.final_plan import final_plan, finished, left_to_do
from cotbal.project.methods import NAMES, Method, default_method, parse_method
from cotbal.project.outcome import other_weights
from cotbal.project.outline import check_budget, run_keys
from cotbal.project.recipe import GIVEN, ProjectRecipe, recipes
from cotbal.project.work import FINALS_FILE, store_of, work
from cotbal.runs.plan import Plan, Results
from cotbal.runs.pool import Listener
from cotbal.runs.store import RunSpec, Store, locked


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
        ValueError: the estimate is not finished, weights cannot reach the training, weights.json has other
            weights, or the budget is less.
        OutputInUseError, OSError: as of `cotbal.project.session.run_project`.
    """
    with locked(project.out):
        data, store = prepare(project), store_of(project)
        failures: dict[str, str] = {}
        asked = [*known_methods(project), *methods]
        # Weights that need more than the estimate, such as the precise difficulty, are known after a round.
        for _ in range(2):
            wanted = final_plan(project, data, methods, store)
            left = left_to_do(project, data, wanted, store)["totals"]
            check_budget(project, left, "ask for fewer methods, or raise the budget")
            # From now on `cotbal status` knows them.
            write_finals(project.out / FINALS_FILE, collected(project, data, asked, store))
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


def known_methods(project: Project) -> list[Method]:
    """The methods that were asked for before and that the file still allows, in the order of the paper.

    Raises:
        OSError: the disk does not give out finals.json, which is written anew from them.
    """
    try:
        content = json.loads((project.out / FINALS_FILE).read_text(encoding="utf-8"))
        names = list(content["methods"])
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return []
    found = []
    for name in names:
        try:
            found.append(parse_method(name, project))
        except ValueError:
            continue
    return sorted(found, key=lambda method: NAMES.index(method.kind))


def collected(project: Project, data: Data, methods: Iterable[Method], store: Store) -> Finals:
    """What the models of methods scored so far.

    Raises:
        ValueError: weights.json has other weights than the method of the file's own rule is trained under.
    """
    distinct = {method.name: method for method in methods}.values()
    models: dict[str, dict[int, Model]] = {}
    clusters: dict[str, Sequence[int]] = {}
    for method in distinct:
        try:
            wanted = final_plan(project, data, [method], store)
        except ValueError:
            # Its estimate is not, or no longer, finished.
            models[method.name] = {}
            continue
        results, keys = finished(wanted.plan, store), run_keys(wanted.plan)
        models[method.name] = {
            seed: _model(recipe, wanted.trainings.get((method.name, seed), []), results, keys, clusters)
            for seed, recipe in recipes(project, data).items()
        }
        if method == default_method(project):
            _check_weights(project, method, models[method.name].values())
    return Finals(columns(project), models, clusters, _sha256(project, data))


def _check_weights(project: Project, method: Method, models: Iterable[Model]) -> None:
    path = project.out / "weights.json"
    for model in models:
        other = other_weights(path, model.details["weights"]) if model.details["weights"] else None
        if other is not None:
            raise ValueError(
                f"{path}: expected the weights of {method.name}, under which its final models are trained, "
                f"got others, as of an earlier start or of other options ({other}); `cotbal run` with the "
                "options of this call writes these, or move the file away"
            )


def columns(project: Project) -> tuple[Column, ...]:
    """The test sets of every weighted task; the validation file where there is none."""
    found = []
    for name in project.weighted:
        task = project.tasks[name]
        source = "test" if task.tests else "validation"
        found += [Column(name, test, task.metric, task.better, source) for test in task.tests or [""]]
    return tuple(found)


def _sha256(project: Project, data: Data) -> dict[str, str]:
    """{column: that of the file that it is scored on}, where the project names one."""
    files = {c.name: data.test.get((c.task, c.test), data.validation.get(c.task)) for c in columns(project)}
    return {name: file.sha256 for name, file in files.items() if file is not None}


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


def _model(
    recipe: ProjectRecipe,
    runs: Sequence[RunSpec],
    results: Results,
    keys: Mapping[str, str],
    clusters: dict[str, Sequence[int]],
) -> Model:
    """What a method scored under a seed; which items belong together goes into `clusters`."""
    scores, items = {}, {}
    by_name = {(column.task, column.test): column.name for column in columns(recipe.project)}
    for run in runs:
        for place, spec in recipe.tests(run).items():
            result = results.get(spec.name)
            if result is not None:
                scores[by_name[place]] = result["score"]
                if result["items"]:
                    items[by_name[place]] = result["items"]
                if "clusters" in result:
                    add_clusters(clusters, by_name[place], result["clusters"])
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
