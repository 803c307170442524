"""`cotbal run`: the commands of an estimate, here or as Slurm jobs, and the weights that follow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotbal.cli.plan import Budget, File, Json, Mode, Precise, StepMatched, load, missing_in_words, show_plan
from cotbal.cli.watching import watched

if TYPE_CHECKING:
    from cotbal.project.outcome import Outcome

# The rules that no contribution is in.
WITHOUT_C = ("difficulty", "equal")


def run(
    file: File,
    precise: Precise = False,
    step_matched: StepMatched = False,
    mode: Mode = None,
    budget: Budget = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what `cotbal plan` prints.")] = False,
    as_json: Json = False,
) -> None:
    """Train and score the models of an estimate, and write scores.csv, items.json and weights.json.

    Stopped at any moment, even by kill -9, it continues from the finished runs when started again. A command
    that fails is tried again, then left out while the others go on; the exit code is then 1.

    Example: cotbal run estimate.yaml
    """
    project = load(file, precise, step_matched, mode, budget)
    if dry_run:
        show_plan(project, as_json)
        return
    from cotbal.project.session import run_project

    with watched(project) as listener:
        outcome = run_project(project, listener)
    if as_json:
        typer.echo(json.dumps(_as_json(outcome), indent=1))
    else:
        _print(outcome)
    if not outcome.complete:
        raise typer.Exit(1)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "complete": outcome.complete,
        "failures": outcome.failures,
        "missing": outcome.missing,
        "refused": {str(seed): reason for seed, reason in outcome.refused.items()},
        "weights": {str(seed): dict(weights) for seed, weights in outcome.weights.items()},
        "pooled": outcome.pooled and dict(outcome.pooled),
        "seed_sd": outcome.spread,
        "no_intervals": _no_intervals(outcome),
        "stale": [str(path) for path in outcome.stale],
        "files": {name: str(path) for name, path in outcome.files.items()},
    }


def _no_intervals(outcome: Outcome) -> str | None:
    """Why the items that were written allow no intervals; None where they do, or there are none."""
    from cotbal.report.findings import no_intervals

    tables = list(outcome.tables.values())
    return no_intervals(tables) if any(table.items for table in tables) else None


def _doubts(outcome: Outcome) -> list[str]:
    """What may be wrong with the scales of the scores."""
    from cotbal.estimate.doubts import doubts

    tables = {f"seed {seed}": table for seed, table in outcome.tables.items()}
    return doubts(tables) if tables else []


def _print(outcome: Outcome) -> None:
    from cotbal.report.tables import print_columns

    if outcome.weights:
        names = list(next(iter(outcome.weights.values())))
        columns = {
            f"seed {seed}": [f"{weights[name]:.4f}" for name in names]
            for seed, weights in outcome.weights.items()
        }
        if outcome.pooled is not None:
            columns["mean scores"] = [f"{outcome.pooled[name]:.4f}" for name in names]
        if outcome.spread:
            columns["sd over seeds"] = [f"{outcome.spread[name]:.4f}" for name in names]
        print_columns("Weights", names, columns)
    of_all = {f"Seed {seed}": weights for seed, weights in outcome.weights.items()}
    of_all |= {} if outcome.pooled is None else {"Mean scores": outcome.pooled}
    for scores, weights in of_all.items():
        lost = weights.provenance.get("unidentified")
        if lost and weights.rule not in WITHOUT_C:
            how = "pulled to the mean" if weights.provenance.get("shrink") else "left out"
            typer.echo(f"{scores}, contribution not identified and {how}: {', '.join(lost)}")
    if (lacking := _no_intervals(outcome)) is not None:
        typer.echo(f"There are no intervals, as {lacking}.")
    for doubt in _doubts(outcome):
        typer.echo(doubt, err=True)
    for seed, reason in outcome.refused.items():
        typer.echo(f"No weights for seed {seed}: {reason}", err=True)
    if outcome.refused_pooled is not None:
        typer.echo(f"No weights for the mean over seeds: {outcome.refused_pooled}", err=True)
    if outcome.missing:
        count = f"{len(outcome.missing)} of {len(outcome.plan)}"
        typer.echo(missing_in_words(count, outcome.missing, outcome.failures), err=True)
    for path in outcome.stale:
        typer.echo(f"{path} is of an earlier start and not of these runs", err=True)
    for name, path in outcome.files.items():
        typer.echo(f"{name}  {path}")
