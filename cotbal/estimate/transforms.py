"""Turning a metric where lower is better into a score where higher is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cotbal.estimate.score_csv import SCALE_RATIO
from cotbal.tasks import unknown_task

if TYPE_CHECKING:
    from torch import Tensor

_EXPECTED = "expected 'reciprocal' (1/m) or 'complement: bound' (bound - m), nothing where higher is better"


def checked_transforms(transforms: Mapping[str, str] | None, tasks: Iterable[str]) -> dict[str, str]:
    """Return {task: transform} in the order of `tasks`, each "reciprocal" or "complement: bound".

    Negation is not offered: the ratio of Eq. 9 has no meaning for negative scores.

    Raises:
        ValueError: a task that is not among `tasks`, or another transform.
    """
    given, known = dict(transforms or {}), list(tasks)
    for task in given:
        if task not in known:
            raise ValueError(f"transforms: no such task {unknown_task(task, known)}")
    return {task: _normal(given[task], task) for task in known if task in given}


def oriented(values: Tensor, tasks: tuple[str, ...], transforms: Mapping[str, str]) -> Tensor:
    """Return scores where higher is better, from measured ones.

    Args:
        values: (N,) or (runs, N) float64, one column per task.
        tasks: the N task names.
        transforms: what `checked_transforms` returned.

    Raises:
        ValueError: a value <= 0 where the reciprocal is asked for.
    """
    turned = values.clone()
    for place, task in enumerate(tasks):
        if task not in transforms:
            continue
        column = values[..., place]
        if transforms[task] == "reciprocal":
            if bool((column <= 0).any()):
                raise ValueError(
                    f"transforms[{task!r}]: the reciprocal needs values > 0, got {column.min().item()}; "
                    "use 'complement: bound'"
                )
            turned[..., place] = 1.0 / column
        else:
            turned[..., place] = _bound(transforms[task]) - column
    return turned


def oriented_draws(values: Tensor, tasks: tuple[str, ...], transforms: Mapping[str, str]) -> Tensor:
    """As `oriented`, of resamples (..., N): NaN where noise alone leaves the reciprocal without a value."""
    positive = values.clone()
    for task, transform in transforms.items():
        if transform == "reciprocal":
            column = values[..., tasks.index(task)]
            positive[..., tasks.index(task)] = column.where(column > 0, math.nan)
    return oriented(positive, tasks, transforms)


def oriented_items(items: Tensor, task: str, transforms: Mapping[str, str]) -> Tensor:
    """Return items (..., n) whose means are the oriented scores, to first order in the items' noise.

    Args:
        items: float64, as measured.
        task: whose items they are.
        transforms: what `checked_transforms` returned.
    """
    if task not in transforms:
        return items
    if transforms[task] == "reciprocal":
        mean = items.mean(-1, keepdim=True)
        return 1.0 / mean - (items - mean) / mean**2
    return _bound(transforms[task]) - items


def remedy(task: str, transforms: Mapping[str, str], mini: float, full: float) -> str:
    """Return what to do where one of two scores is not above 0; they are given as measured."""
    if task not in transforms:
        return "take a larger mini subset or another metric"
    measured = f"they are {_bound(transforms[task]):g} - m of the measured {mini:g} and {full:g}"
    return f"{measured}: give a bound above every measured value, such as 100 of percentages"


def far_bounds(
    tasks: Sequence[str], rows: Mapping[str, Sequence[float]], transforms: Mapping[str, str]
) -> list[str]:
    """Return a sentence on each bound that may be of another scale than the measured scores in `rows`.

    Args:
        tasks: the N task names.
        rows: N scores by the name of their run.
        transforms: what `checked_transforms` returned.
    """
    found = []
    for place, task in enumerate(tasks):
        largest = max(values[place] for values in rows.values())
        if not transforms.get(task, "").startswith("complement") or largest <= 0:
            continue
        if (bound := _bound(transforms[task])) >= SCALE_RATIO * largest:
            found.append(
                f"task {task!r}: the bound of complement: {bound:g} is far above its largest score, "
                f"{largest:g}; if it is in another scale (100 of percentages, 1 of shares), write it in that "
                "of the scores"
            )
    return found


def _bound(transform: str) -> float:
    return float(transform.partition(":")[2])


def _normal(transform: object, task: str) -> str:
    if transform == "reciprocal":
        return "reciprocal"
    if isinstance(transform, str) and transform.partition(":")[0].strip() == "complement":
        try:
            bound = _bound(transform)
        except ValueError:
            bound = math.nan
        if math.isfinite(bound):
            return f"complement: {bound!r}"
    raise ValueError(f"transforms[{task!r}]: {_EXPECTED}, got {transform!r}")
