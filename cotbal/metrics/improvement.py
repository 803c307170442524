"""Improvement over single-task models, per task and over all tasks (Eq. 12-14)."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean

Metrics = Mapping[str, Mapping[str, float]]


def improvement(
    evaluated: Metrics, baseline: Metrics, *, lower_is_better: Iterable[str] = ()
) -> dict[str, float]:
    """Return I_i of each task, the mean relative change over its metrics (Eq. 12), as a fraction.

    Args:
        evaluated: {task: {metric: value}} of the method; one metric per test set where there are several.
        baseline: the same tasks and metrics of the models trained on one task each, every value > 0.
        lower_is_better: names of the metrics whose sign is flipped.

    Raises:
        TypeError: a value is not a number.
        ValueError: tasks or metrics differ, a value is not finite, a baseline is <= 0, a name in
            `lower_is_better` that no task has.

    Example:
        >>> improvement({"VQAv2": {"EM": 77.0}}, {"VQAv2": {"EM": 70.0}})
        {'VQAv2': 0.1}
    """
    _check_same(evaluated, baseline, "tasks")
    flipped = {lower_is_better} if isinstance(lower_is_better, str) else set(lower_is_better)
    if unknown := flipped - {metric for metrics in baseline.values() for metric in metrics}:
        raise ValueError(f"lower_is_better: no task has the metrics {', '.join(sorted(unknown))}")
    result = {}
    for task, metrics in baseline.items():
        _check_same(evaluated[task], metrics, f"metrics of task {task!r}")
        changes = {
            name: _change(evaluated[task][name], base, f"{task}, {name}") for name, base in metrics.items()
        }
        result[task] = fmean(-change if name in flipped else change for name, change in changes.items())
    return result


def delta_i(improvements: Mapping[str, float]) -> float:
    """Return dI%, the mean improvement over the tasks in percent (Eq. 13).

    Example:
        >>> delta_i({"VQAv2": 0.10, "GQA": -0.02})
        4.0
    """
    return 100.0 * fmean(_finite(improvements))


def delta_e(improvements: Mapping[str, float]) -> float:
    """Return dE%, the mean loss over the tasks in percent, as a positive number (Eq. 14).

    Example:
        >>> delta_e({"VQAv2": 0.10, "GQA": -0.02})
        1.0
    """
    return 100.0 * abs(fmean(min(0.0, value) for value in _finite(improvements)))


def _change(value: float, base: float, where: str) -> float:
    for name, number in (("evaluated", value), ("baseline", base)):
        if not math.isfinite(number):
            raise ValueError(f"{name}: {where}: expected a finite number, got {number}")
    if base <= 0:
        raise ValueError(
            f"baseline: {where}: expected a value > 0, as the change is relative to it (Eq. 12), got {base}"
        )
    return (value - base) / base


def _check_same(evaluated: Mapping[str, object], baseline: Mapping[str, object], what: str) -> None:
    if not baseline:
        raise ValueError(f"baseline: expected at least one entry as {what}, got none")
    if set(evaluated) != set(baseline):
        missing = ", ".join(sorted(set(baseline) - set(evaluated))) or "none"
        extra = ", ".join(sorted(set(evaluated) - set(baseline))) or "none"
        raise ValueError(
            f"evaluated: expected the same {what} as the baseline, missing: {missing}, extra: {extra}"
        )


def _finite(improvements: Mapping[str, float]) -> list[float]:
    if not improvements:
        raise ValueError("improvements: expected {task: I} of at least one task, got none")
    for task, value in improvements.items():
        if not math.isfinite(value):
            raise ValueError(f"improvements: task {task!r}: expected a finite number, got {value}")
    return list(improvements.values())
