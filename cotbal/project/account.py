"""What a project's runs have cost and how far they are, by training."""

from __future__ import annotations

from typing import Any

from cotbal.project.config import Project
from cotbal.project.state import FAILED, FINISHED, run_states
from cotbal.runs.plan import Plan
from cotbal.runs.store import Store


def account(project: Project, plan: Plan, store: Store) -> dict[str, Any]:
    """Return {"trainings": [...], "totals": {...}} from the results and the state on disk.

    A training has its "name", "state", "samples", "seconds" (None until it is finished), "evaluations" (how
    many it needs), "evaluated" (how many of them are finished), "evaluation_seconds" and "reason", of the
    last failure of it or of one of its evaluations. The totals
    are "runs", "finished", "failed", "device_hours" and "device", the hours of the finished runs' last tries
    times the GPUs of each, or of a slot where there are none, and "again", how many had earlier tries.
    """
    states = {state["name"]: state for state in run_states(plan, store)}
    of_training: dict[str, list[dict[str, Any]]] = {name: [] for name in plan if not plan[name].needs}
    for name in plan:
        for need in plan[name].needs:
            of_training[need].append(states[name])
    trainings = [
        _training(states[name], int(plan[name].steps), evaluations)
        for name, evaluations in of_training.items()
    ]
    return {"trainings": trainings, "totals": _totals(project, list(states.values()))}


def _training(state: dict[str, Any], work: int, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    finished = [each for each in evaluations if each["state"] == FINISHED]
    reasons = [each["reason"] for each in (state, *evaluations) if each.get("reason")]
    failed = any(each["state"] == FAILED for each in evaluations)
    return {
        "name": state["name"],
        "state": "evaluation failed" if failed and state["state"] == FINISHED else state["state"],
        "samples": work,
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
