"""`cotbal plan`: the runs of an estimate, what they cost, and their exact commands."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotbal.project.config import Project
    from cotbal.project.data import Data
    from cotbal.runs.plan import Plan

File = Annotated[
    Path, typer.Argument(help="The YAML file of the estimate; `cotbal plan --recipes` shows some.")
]
Precise = Annotated[
    bool, typer.Option("--precise", help="Difficulty from runs on each task alone: 2 more runs per task.")
]
StepMatched = Annotated[
    bool, typer.Option("--step-matched", help="As many steps in the mini run as in the mean probe.")
]
Mode = Annotated[str | None, typer.Option("--mode", help="full, cheap or no-probes.")]
Budget = Annotated[
    str | None, typer.Option("--budget", help='Refuse what comes to more: "5000 samples", "80 GPU-hours".')
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def plan(
    file: Annotated[Path | None, typer.Argument(help="The YAML file of the estimate.")] = None,
    precise: Precise = False,
    step_matched: StepMatched = False,
    mode: Mode = None,
    budget: Budget = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="Print the ready-made files, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Write the mini subsets, and list every run with its size, its GPU-hours and its exact command.

    Example: cotbal plan estimate.yaml
    """
    if recipes:
        from cotbal.project import recipe_files

        paths = [str(path) for path in recipe_files()]
        typer.echo(json.dumps(paths, indent=1) if as_json else "\n".join(paths))
        return
    if file is None:
        raise ValueError(
            "FILE: expected the YAML file of an estimate, got none; --recipes shows some to copy"
        )
    show_plan(load(file, precise, step_matched, mode, budget), as_json)


def load(
    file: Path, precise: bool, step_matched: bool, mode: str | None = None, budget: str | None = None
) -> Project:
    """The project in a file, with the options of the command line."""
    from cotbal.project.config import load_project

    return load_project(file, precise=precise, step_matched=step_matched, mode=mode, budget=budget)


def prepared(project: Project) -> tuple[Data, Plan]:
    """The data of a project, with its mini subsets written, and the plan."""
    from cotbal.project.data import prepare
    from cotbal.project.recipe import plan_of

    data = prepare(project)
    return data, plan_of(project, data)


def show_plan(project: Project, as_json: bool) -> None:
    """Writes the subsets and plan.json, and prints the plan."""
    from cotbal.files import write_json
    from cotbal.project.changes import done_again, in_words
    from cotbal.project.outline import check_budget, outline, recorded, remedy, throughput
    from cotbal.project.parts import NO_WEIGHTS, shared_files
    from cotbal.project.work import store_of

    data, plan = prepared(project)
    finished = recorded(plan, store_of(project))
    content = outline(project, data, plan, throughput(project, plan, finished))
    path = project.out / "plan.json"
    write_json(path, content)
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        _print(content)
        if project.resources.executor == "slurm":
            from cotbal.project.slurm.submission import sbatch_options

            options = sbatch_options(project.resources).items()
            named = [f"--{key.replace('_', '-')}={value}" for key, value in options if value is not None]
            typer.echo(f"Each run is a Slurm job: sbatch {' '.join(named)}")
        if not project.train.takes_weights:
            typer.echo(f"{NO_WEIGHTS}.")
        for doubt in shared_files(project.tasks):
            typer.echo(f"{doubt}.")
        if again := done_again(plan, finished, project.out):
            typer.echo(f"{in_words(again)}.")
        if finished:
            typer.echo(f"{len(finished)} of {len(plan)} runs are finished.")
        typer.echo(f"Wrote {path} and the mini subsets under {project.out / 'data'}.")
    check_budget(project, content["totals"], remedy(project, finished))


def _print(content: Mapping[str, Any]) -> None:
    from cotbal.report.tables import print_columns

    tasks, runs = content["tasks"], content["runs"]
    first = str(content["seeds"][0])
    print_columns(
        f"Tasks; mini subsets of {content['mini_ratio']}",
        list(tasks),
        {
            "samples": [str(task["full"]["records"]) for task in tasks.values()],
            "mini": [str(task["mini"][first]["records"]) if task["mini"] else "-" for task in tasks.values()],
            "to score": [
                _number(task["validation"] and task["validation"]["items"]) for task in tasks.values()
            ],
            "weight": [
                "estimated" if task["weight"] is None else f"{task['weight']:g}" for task in tasks.values()
            ],
        },
    )
    trainings = [run for run in runs if run["kind"] == "train"]
    columns = {
        "samples": [str(run["samples"]) for run in trainings],
        "steps": [_number(run["steps"]) for run in trainings],
        "GPU-hours": [_number(run["gpu_hours"]) for run in trainings],
        "evaluations": [str(sum(run["name"] in other["needs"] for other in runs)) for run in trainings],
        "and their GPU-hours": [
            _sum([o["gpu_hours"] for o in runs if run["name"] in o["needs"]]) for run in trainings
        ],
    }
    print_columns("Runs", [run["name"] for run in trainings], columns, "run")
    typer.echo(f"Commands, in {content['folder']} (data of a run are written when it starts):")
    for run in runs:
        typer.echo(f"# {run['name']}\n{run['command']}")
    typer.echo(_in_words(content["totals"]))


def missing_in_words(count: str, missing: Collection[str], failures: Collection[str]) -> str:
    """What is not finished: `count` of the runs, of which some failed and others wait for them."""
    others = " and the others need them" if len(failures) < len(missing) else ""
    return (
        f"{count} runs are missing, {len(failures)} failed{others}; the rest is kept, and the same command "
        "tries these again"
    )


def _in_words(totals: Mapping[str, Any]) -> str:
    hours = totals["gpu_hours"]
    price = (
        "GPU-hours once the file gives a throughput or a run is finished"
        if hours is None
        else f"{hours:.1f} GPU-hours"
    )
    times = f"{totals['of_full_data']:.2f} times the weighted tasks' data in as many epochs"
    items = "items that no file counts" if totals["items"] is None else f"{totals['items']} items"
    return (
        f"{totals['trainings']} trainings on {totals['samples']} samples ({times}) and "
        f"{totals['evaluations']} evaluations of {items}: {price}."
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _sum(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _number(float(sum(known))) if len(known) == len(values) else "-"
