"""What a project's runs have cost and how far they are, by training."""

from __future__ import annotations

from typing import Any

from cotbal.project.config import Project
from cotbal.project.recipe import GIVEN, TRAIN
from cotbal.project.state import FAILED, FINISHED, run_states
from cotbal.runs.plan import Plan
from cotbal.runs.store import RunSpec, Store


def account(project: Project, plan: Plan, store: Store) -> dict[str, Any]:
    """Return {"trainings": [...], "totals": {...}} from the results and the state on disk.

    A training has its "name", "state", "samples" (as in plan.json), "seconds" (None until it is finished),
    "evaluations" (how many it needs), "evaluated" (how many of them are finished), "evaluation_seconds" and
    "reason", of the last failure of it or of one of its evaluations. A model that exists is one in the state
    "given", without samples and seconds. The totals are "runs", "finished", "failed", "device_hours" and
    "device", the hours of the finished runs' last tries times the GPUs of each, or of a slot where there are
    none, and "again", how many had earlier tries.
    """
    states = {state["name"]: state for state in run_states(plan, store)}
    samples: dict[str, int | None] = {}
    evaluations: dict[str, list[dict[str, Any]]] = {}
    for name in plan:
        spec = plan[name]
        assert isinstance(spec, RunSpec)
        if spec.function == TRAIN:
            samples[name] = spec.context["samples"]
        else:
            trained = spec.needs[0] if spec.needs else _model_of(spec)
            evaluations.setdefault(trained, []).append(states[name])
            samples.setdefault(trained, None)
    trainings = [
        _training(states.get(name, {"name": name, "state": GIVEN}), count, evaluations.get(name, []))
        for name, count in samples.items()
    ]
    return {"trainings": trainings, "totals": _totals(project, list(states.values()))}


def _model_of(spec: RunSpec) -> str:
    """What the evaluation of a model that exists calls it, with the seed."""
    prefix, _, rest = spec.name.partition("evaluate ")
    return prefix + rest.removesuffix(f" on {spec.settings['task']}")


def _training(
    state: dict[str, Any], samples: int | None, evaluations: list[dict[str, Any]]
) -> dict[str, Any]:
    finished = [each for each in evaluations if each["state"] == FINISHED]
    reasons = [each["reason"] for each in (state, *evaluations) if each.get("reason")]
    failed = any(each["state"] == FAILED for each in evaluations)
    return {
        "name": state["name"],
        "state": "evaluation failed" if failed and state["state"] in (FINISHED, GIVEN) else state["state"],
        "samples": samples,
        "seconds": state["seconds"] if state["state"] == FINISHED else None,
        "evaluations": len(evaluations),
        "evaluated": len(finished),
        "evaluation_seconds": sum(each["seconds"] for each in finished),
        "reason": reasons[0] if reasons else None,
    }


def _totals(project: Project, states: list[dict[str, Any]]) -> dict[str, Any]:
    finished = [state for state in states if state["state"] == FINISHED]
    gpus = project.resources.gpus_of_a_command
    hours = sum(state["seconds"] for state in finished) / 3600
    return {
        "runs": len(states),
        "finished": len(finished),
        "failed": sum(state["state"] == FAILED for state in states),
        "device_hours": hours * max(1, gpus),
        "again": sum(state["tries"] > 1 for state in finished),
        "device": "GPU" if gpus else "slot",
    }
