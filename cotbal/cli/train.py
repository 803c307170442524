"""`cotbal train`: final models under the estimated weights, or by another method, and their test scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotbal.cli.plan import (
    Budget,
    File,
    Json,
    Mode,
    Precise,
    StepMatched,
    _in_words,
    _number,
    load,
    missing_in_words,
)
from cotbal.cli.watching import watched

if TYPE_CHECKING:
    from cotbal.project.config import Project
    from cotbal.project.finals import FinalOutcome
    from cotbal.project.methods import Method
    from cotbal.project.rungs import RungOutcome

Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="STL, EW, TLA, RLW, DWA, IGBv1, CoTBal, contribution, one2all, all2one or difficulty, with "
        'options as in "CoTBal T=1 D=precise" or "DWA window=10"; or table2, table3. May be repeated.',
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what is still to be trained and scored, and stop.")
]


def train(
    file: File,
    method: Methods = None,
    precise: Precise = False,
    step_matched: StepMatched = False,
    mode: Mode = None,
    budget: Budget = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train the final model on all data under the estimated weights, score it on the test files.

    With --method the models of other methods, by the same commands: STL is one model per task, EW equal
    weights, TLA, RLW, DWA and IGBv1 change the weights in every step. What is finished is never trained
    again; stopped or killed, the same command continues. The scores are in finals.json.

    Example: cotbal train estimate.yaml --method CoTBal --method EW
    """
    from cotbal.project.finals import run_finals
    from cotbal.project.methods import default_method, parse_methods

    project = load(file, precise, step_matched, mode, budget)
    methods = parse_methods(method, project) if method else [default_method(project)]
    if dry_run:
        show_left(project, methods, as_json)
        return
    with watched(project) as listener:
        outcome = run_finals(project, methods, listener)
    if as_json:
        typer.echo(json.dumps(_as_json(outcome, methods), indent=1))
    else:
        _print(outcome, methods)
    if outcome.missing:
        raise typer.Exit(1)


def show_left(project: Project, methods: Sequence[Method], as_json: bool) -> None:
    """Prints what methods still need."""
    from cotbal.project.data import prepare
    from cotbal.project.final_plan import final_plan, left_to_do
    from cotbal.project.work import store_of

    data, store = prepare(project), store_of(project)
    print_left(left_to_do(project, data, final_plan(project, data, methods, store), store), as_json)


def print_left(content: Mapping[str, Any], as_json: bool) -> None:
    """Prints runs with their state, and what is still to be done."""
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    from cotbal.report.tables import print_columns

    runs = content["runs"]
    trainings = [run for run in runs if run["kind"] == "train"]
    of_run = {name: [run for run in runs if name in run["needs"]] for name in (t["name"] for t in trainings)}
    columns = {
        "samples": [str(run["samples"]) for run in trainings],
        "GPU-hours": [_number(run["gpu_hours"]) for run in trainings],
        "state": [run["state"] for run in trainings],
        "scores": [f"{sum(e['state'] == 'finished' for e in of)} of {len(of)}" for of in of_run.values()],
    }
    print_columns("Trainings", [run["name"] for run in trainings], columns, "run")
    left = [run for run in runs if run["state"] == "to do"]
    if any(run["state"] == "waits" for run in runs):
        typer.echo("What waits has weights that follow from the others; so has its command.")
    if left:
        typer.echo(f"Commands, in {content['folder']}:")
    for run in left:
        typer.echo(f"# {run['name']}\n{run['command']}")
    typer.echo(f"To do: {_in_words(content['totals'])}")


def tell_missing(outcome: FinalOutcome | RungOutcome) -> None:
    """Says what is not finished."""
    if outcome.missing:
        typer.echo(missing_in_words(str(len(outcome.missing)), outcome.missing, outcome.failures), err=True)


def _as_json(outcome: FinalOutcome, methods: Sequence[Method]) -> dict[str, Any]:
    return {
        "complete": not outcome.missing,
        "failures": outcome.failures,
        "missing": outcome.missing,
        "methods": {
            method.name: {
                str(seed): {**model.details, "scores": dict(model.scores)}
                for seed, model in outcome.finals.models[method.name].items()
            }
            for method in methods
        },
        "files": {name: str(path) for name, path in outcome.files.items()},
    }


def _print(outcome: FinalOutcome, methods: Sequence[Method]) -> None:
    from cotbal.report.tables import print_columns

    finals = outcome.finals
    rows = [
        (f"{method.name}, seed {seed}" if len(models) > 1 else method.name, model)
        for method in methods
        for models in [finals.models[method.name]]
        for seed, model in models.items()
    ]
    columns = {
        f"{c.name}\n{c.metric}": [_score(model.scores.get(c.name)) for _, model in rows]
        for c in finals.columns
    }
    where = {"test": "the test files", "validation": "the validation files, no test scores"}
    sources = " and ".join(where[source] for source in sorted({c.source for c in finals.columns}))
    print_columns(f"Final models, scored on {sources}", [name for name, _ in rows], columns, "method")
    for name, model in rows:
        for run, folder in model.details["models"].items():
            typer.echo(f"{name}: {run}  {folder or 'not finished'}")
    tell_missing(outcome)
    for name, path in outcome.files.items():
        typer.echo(f"{name}  {path}")


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
