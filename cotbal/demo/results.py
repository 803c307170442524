"""What the demo found: results.json, and the weights and score table of each seed."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cotbal.demo.pipeline import EW, STL, Demo
from cotbal.demo.profiles import PROFILES
from cotbal.demo.statements import statements, verdict
from cotbal.estimate import RULES
from cotbal.estimate.algorithm1 import Algorithm1
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all, unidentified
from cotbal.files import write_json
from cotbal.metrics import delta_e, delta_i, improvement
from cotbal.report.findings import measured
from cotbal.report.seeds import Estimate, estimate
from cotbal.runs.plan import Results
from cotbal.runs.store import Record, versions

Scored = Mapping[str, Mapping[str, float]]


def assemble(demo: Demo, records: Mapping[str, Record], *, workers: int, command: str) -> dict[str, Any]:
    """The content of results.json from the finished runs.

    Args:
        demo: what was run.
        records: every run of `demo.plan()` by name.
        workers: number of worker processes.
        command: the command line that made it.

    Raises:
        ValueError: the scores do not allow an estimate; the message names the task.
    """
    profile = PROFILES[demo.profile]
    outcome = {name: record.result for name, record in records.items()}
    by_seed = {str(seed): _seed_entry(demo, seed, outcome) for seed in demo.seeds}
    results: dict[str, Any] = {
        "schema_version": 1,
        "kind": "demo",
        "profile": demo.profile,
        "tasks": list(profile.tasks),
        "fixed": dict(profile.fixed),
        "metrics": {task: profile.metrics[task] for task in (*profile.tasks, *profile.fixed)},
        "temperature": demo.algorithm(demo.seeds[0]).temperature,
        "alpha": demo.algorithm(demo.seeds[0]).alpha,
        "seeds": list(demo.seeds),
        "by_seed": by_seed,
        "summary": _summary(demo, list(by_seed.values())),
    }
    results["statements"] = statements(results)
    results["run"] = _account(records.values(), workers, command)
    return results


def write_results(
    demo: Demo, records: Mapping[str, Record], results: Mapping[str, Any], out: Path
) -> dict[str, Path]:
    """Writes results.json, then each seed's weights.json, scores.csv and items.json; returns their paths.

    Raises:
        OSError: the disk cannot take a file; each is then as it was before.
    """
    write_json(out / "results.json", results)
    written = {"results": out / "results.json"}
    outcome = {name: record.result for name, record in records.items()}
    for seed in demo.seeds:
        folder, algorithm = out / f"seed-{seed}", demo.algorithm(seed)
        written[f"weights, seed {seed}"] = algorithm.weights(outcome).save(folder / "weights.json")
        scores = algorithm.write_scores(algorithm.table(outcome), folder)
        written |= {f"{name}, seed {seed}": path for name, path in scores.items()}
    return written


def _seed_entry(demo: Demo, seed: int, outcome: Results) -> dict[str, Any]:
    recipe, algorithm = demo.recipe(seed), demo.algorithm(seed)
    tested: dict[str, Any] = {STL: {}}
    for task in recipe.tasks:
        tested[STL].update(outcome[recipe.single(task).name]["scores"])
    for method in demo.methods:
        tested[method] = outcome[recipe.mixture(method).name]["scores"]
    gains = {method: _improvement(tested[method], tested[STL]) for method in demo.methods}
    return {
        **_estimate_entry(algorithm, outcome),
        "test": tested,
        "improvement": gains,
        "delta_i": {method: _if_whole(delta_i, gain) for method, gain in gains.items()},
        "delta_e": {method: _if_whole(delta_e, gain) for method, gain in gains.items()},
    }


def _estimate_entry(algorithm: Algorithm1, outcome: Results) -> dict[str, Any]:
    scores = algorithm.scores(outcome)
    C = contribution(scores, on_unidentified=algorithm.on_unidentified)
    return {
        **measured(scores, C),
        "one2all": one2all(C).tolist(),
        "all2one": all2one(C).tolist(),
        "difficulty": difficulty(scores).tolist(),
        "unidentified": list(unidentified(scores)),
        "weights": {rule: dict(algorithm.weights(outcome, rule)) for rule in RULES},
    }


def _improvement(tested: Scored, single: Scored) -> dict[str, float | None]:
    """I of every weighted task (Eq. 12); None where the single-task model scored 0."""
    return {
        task: improvement({task: tested[task]}, {task: metrics})[task]
        if all(value > 0 for value in metrics.values())
        else None
        for task, metrics in single.items()
    }


def _if_whole(
    measure: Callable[[Mapping[str, float]], float], gains: Mapping[str, float | None]
) -> float | None:
    known = {task: gain for task, gain in gains.items() if gain is not None}
    return measure(known) if len(known) == len(gains) else None


def _summary(demo: Demo, entries: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        key: {method: estimate(entry[key][method] for entry in entries)._asdict() for method in demo.methods}
        for key in ("delta_i", "delta_e")
    }
    summary["against_EW"] = {
        method: _against_equal(method, entries) for method in demo.methods if method != EW
    }
    return summary


def _against_equal(method: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    paired = {key: _paired(key, method, entries) for key in ("delta_i", "delta_e")}
    differences = {key: difference._asdict() for key, difference in paired.items()}
    return {**differences, "verdict": verdict(method, paired, len(entries))}


def _paired(key: str, method: str, entries: list[dict[str, Any]]) -> Estimate:
    """Mean and standard error over the seeds of the difference from EW, seed by seed."""
    pairs = [(entry[key][method], entry[key][EW]) for entry in entries]
    if any(value is None for pair in pairs for value in pair):
        return Estimate(None, None)
    return estimate(value - equal for value, equal in pairs)


def _account(records: Iterable[Record], workers: int, command: str) -> dict[str, Any]:
    different = {record.key: record for record in records}.values()
    return {
        "wall_seconds": _covered_seconds((record.started, record.finished) for record in different),
        "cpu_seconds": sum(record.cpu_seconds for record in different),
        "runs": len(different),
        "workers": workers,
        "versions": {**versions(), "python": platform.python_version()},
        "command": command,
    }


def _covered_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one run was worked on, so that a pause between two starts does not count."""
    total, until = 0.0, -math.inf
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
