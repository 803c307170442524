"""What a project comes to before anything runs: every run with its size, its price and its exact command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotbal.project.config import Project
from cotbal.project.data import Data, Part
from cotbal.project.job import evaluate_paths, train_paths
from cotbal.project.recipe import TRAIN
from cotbal.project.template import fill
from cotbal.runs.plan import Plan
from cotbal.runs.store import Record, RunSpec, Store, run_key

SCHEMA_VERSION = 1


def run_keys(plan: Plan) -> dict[str, str]:
    """The key of every run of a project's plan; none of them depends on a result."""
    keys: dict[str, str] = {}
    for name in plan:
        spec = plan[name]
        assert isinstance(spec, RunSpec)
        keys[name] = run_key(spec, [keys[need] for need in spec.needs])
    return keys


def recorded(plan: Plan, store: Store) -> dict[str, Record]:
    """The finished runs of a project's plan by name; each result is read and its files are looked at.

    What needs a run that is not finished is not finished either.
    """
    records: dict[str, Record] = {}
    for name, key in run_keys(plan).items():
        needs = [records.get(need) for need in plan[name].needs]
        known = [need for need in needs if need is not None]
        record = store.record(key, {need.key: need.finished for need in known})
        if record is not None and len(known) == len(needs):
            records[name] = record
    return records


@dataclass(frozen=True)
class Throughput:
    """Samples trained on and items scored in an hour of one GPU; None where it is not known.

    Attributes:
        train: samples, each epoch counted.
        evaluate: items.
        uncounted: evaluations of a number of items that no validation file tells.
    """

    train: float | None
    evaluate: float | None
    uncounted: float | None = None


def throughput(project: Project, plan: Plan, finished: Mapping[str, Record]) -> Throughput:
    """What the file says, else what the finished runs came to, their start and end included.

    Those that went on from a checkpoint do not count: the hours before it are not known.
    """
    amounts, hours = (dict.fromkeys(("train", "evaluate", "uncounted"), 0.0) for _ in range(2))
    gpus = max(1, project.resources.gpus_of_a_command)
    for name, record in finished.items():
        if record.resumed:
            continue
        kind = _unit(plan[name])
        amounts[kind] += _amount(plan[name])
        hours[kind] += (record.finished - record.started) / 3600 * gpus
    measured = {kind: amounts[kind] / hours[kind] if hours[kind] else None for kind in amounts}
    return Throughput(
        project.train.samples_per_gpu_hour or measured["train"],
        project.evaluate.items_per_gpu_hour or measured["evaluate"],
        measured["uncounted"],
    )


def outline(project: Project, data: Data, plan: Plan, known: Throughput) -> dict[str, Any]:
    """The plan as JSON: {"schema_version", "output", "mini_ratio", "tasks", "runs", "totals"}.

    A training has "samples", "work" (samples times epochs) and "steps"; an evaluation "items", None where no
    validation file tells how many; both have "gpu_hours", None where no throughput is known, and "command",
    whose {port} is chosen at the start.

    Args:
        project: the file.
        data: its data.
        plan: its runs.
        known: the throughput.
    """
    keys = run_keys(plan)
    runs = [_run(plan[name], keys, known) for name in plan]
    return {
        "schema_version": SCHEMA_VERSION,
        "output": str(project.out),
        "folder": str(project.folder),
        "seeds": list(project.seeds),
        "mini_ratio": str(project.ratio),
        "tasks": {name: _task(project, data, name) for name in project.tasks},
        "runs": runs,
        "totals": totals(project, data, runs),
    }


def remedy(project: Project, finished: Mapping[str, Record]) -> str:
    """What to do where an estimate comes to more than its budget, of which these runs are finished."""
    if finished:
        return f"the {len(finished)} that are finished count too; raise the budget"
    less = {"full": "mode cheap or no-probes", "cheap": "mode no-probes", "no-probes": "smaller mini subsets"}
    return f"{less[project.mode]} would take less"


def check_budget(project: Project, totals: Mapping[str, Any], remedy: str) -> None:
    """Passes where the plan is within the file's budget, or there is none.

    Args:
        project: the file.
        totals: those of `outline`.
        remedy: what to do where it is not.

    Raises:
        ValueError: the plan is above it, or its GPU-hours are not known.
    """
    if project.budget is None:
        return
    amount, _, unit = project.budget.partition(" ")
    price = totals["samples"] if unit == "samples" else totals["gpu_hours"]
    if price is None:
        raise ValueError(
            "budget: the GPU-hours of the plan are not known; give train.samples_per_gpu_hour, "
            "evaluate.items_per_gpu_hour and validation files whose items can be counted (a JSON array or "
            "JSONL), or a budget in samples"
        )
    if price > float(amount):
        raise ValueError(f"budget: expected at most {project.budget}, the runs come to {price:.6g}; {remedy}")


def _task(project: Project, data: Data, name: str) -> dict[str, Any]:
    task, file = project.tasks[name], data.validation.get(name)
    minis = {seed: data.mini[seed, name] for seed in project.seeds if task.weight is None}
    return {
        "weight": task.weight,
        "full": _part(data.full[name]),
        "mini": {str(seed): _part(part) for seed, part in minis.items()},
        "validation": file and {"file": file.path, "sha256": file.sha256, "items": file.records},
    }


def _part(part: Part) -> dict[str, Any]:
    files = zip(part.files, part.sha256, strict=True)
    return {"records": part.records, "files": [{"file": f, "sha256": digest} for f, digest in files]}


def _kind(spec: Any) -> str:
    return "train" if spec.function == TRAIN else "evaluate"


def _unit(spec: Any) -> str:
    """What a run is priced by."""
    return "uncounted" if spec.function != TRAIN and spec.context["items"] is None else _kind(spec)


def _amount(spec: Any) -> int:
    if spec.function == TRAIN:
        return int(spec.context["work"])
    return 1 if spec.context["items"] is None else int(spec.context["items"])


def _run(spec: Any, keys: Mapping[str, str], known: Throughput) -> dict[str, Any]:
    out, key, context = Path(spec.context["out"]), keys[spec.name], spec.context
    if spec.function == TRAIN:
        paths = train_paths(out, key, spec.settings["format"])
        sizes = {"samples": context["samples"], "work": context["work"], "steps": context["steps"]}
    else:
        model = keys[spec.needs[0]] if spec.needs else context["model"]
        paths = evaluate_paths(out, key, model, context["file"])
        sizes = {"task": spec.settings["task"], "items": context["items"]}
    per_hour = getattr(known, _unit(spec))
    return {
        "name": spec.name,
        "kind": _kind(spec),
        "key": key,
        "needs": list(spec.needs),
        **sizes,
        "gpu_hours": _amount(spec) / per_hour if per_hour else None,
        "command": fill(spec.settings["command"], paths, ("port",)),
    }


def totals(project: Project, data: Data, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What runs of `outline` come to together: their number, samples, items and GPU-hours, None if one's are.

    "samples" are those that are trained on, each epoch counted and a matched mini run as it goes on.
    """
    trainings = [run for run in runs if run["kind"] == "train"]
    evaluations = [run for run in runs if run["kind"] == "evaluate"]
    whole = sum(data.full[task].records for task in project.weighted) * len(project.seeds)
    work = sum(run["work"] for run in trainings)
    hours, items = [run["gpu_hours"] for run in runs], [run["items"] for run in evaluations]
    return {
        "trainings": len(trainings),
        "evaluations": len(evaluations),
        "samples": work,
        "items": None if None in items else sum(items),
        "of_full_data": work / project.train.epochs / whole,
        "gpu_hours": None if None in hours else sum(hours),
    }
