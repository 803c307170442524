"""Score tables of several training seeds: the same tasks and items, models of other random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cotbal.estimate.scores import Scores
from cotbal.weights import TaskWeights


class ScoreTable(Protocol):
    """What is known of any table: `Scores`, or that of the two models of mode no-probes."""

    @property
    def tasks(self) -> Sequence[str]:
        """The N tasks."""

    @property
    def transforms(self) -> Mapping[str, str]:
        """Where lower is better."""

    @property
    def items(self) -> Mapping[str, Mapping[str, Any]]:
        """The scores by item, of a run and a task."""

    @property
    def clusters(self) -> Mapping[str, Any]:
        """Which items belong together."""

    @property
    def strata(self) -> Mapping[str, Any]:
        """Of which validation set each item is."""

    @property
    def equal(self) -> Any:
        """The scores of the equally weighted model, None where there is none."""


def pooled_scores(tables: Sequence[Scores]) -> Scores:
    """One table of the means over seeds, of scores and of each item.

    Raises:
        ValueError: no table, or other tasks, transforms, items, clusters or strata under another seed.
    """
    check_alike(tables)
    first = tables[0]
    if len(tables) == 1:
        return first
    # An item that one seed lacks is lacking.
    items = {
        run: {
            task: mean_of([table.items[run][task] for table in tables])
            for task in first.items[run]
            if all(task in table.items.get(run, {}) for table in tables)
        }
        for run in first.items
    }
    kept = {task for of_run in items.values() for task in of_run}
    alone = {
        name: [value for table in tables if (value := getattr(table, name)) is not None]
        for name in ("single_mini", "single_full", "equal")
    }
    return Scores(
        first.tasks,
        mean_of([table.mini for table in tables]),
        mean_of([table.probes for table in tables]),
        items=items,
        clusters=common_clusters(tables, kept),
        strata=common_strata(tables, kept),
        transforms=first.transforms,
        **{name: mean_of(found) for name, found in alone.items() if len(found) == len(tables)},
    )


def common_clusters(tables: Sequence[ScoreTable], tasks: Iterable[str]) -> dict[str, Any]:
    """Which items of these tasks belong together, the same under every seed.

    Raises:
        ValueError: other ones under another seed, so that the items are others too.
    """
    return _common("clusters", [table.clusters for table in tables], tasks)


def common_strata(tables: Sequence[ScoreTable], tasks: Iterable[str]) -> dict[str, Any]:
    """Of which validation set the items of these tasks are, the same under every seed.

    Raises:
        ValueError: as of `common_clusters`.
    """
    return _common("strata", [table.strata for table in tables], tasks)


def _common(name: str, by_seed: Sequence[Mapping[str, Any]], tasks: Iterable[str]) -> dict[str, Any]:
    common = {}
    for task in tasks:
        found = [numbers.get(task) for numbers in by_seed]
        lists = [None if numbers is None else list(map(int, numbers)) for numbers in found]
        if any(each != lists[0] for each in lists):
            raise ValueError(
                f"{name}[{task!r}]: expected the same under every seed, got others; every model must be "
                "scored on the same items in the same order"
            )
        if found[0] is not None:
            common[task] = found[0]
    return common


def spread(by_seed: Sequence[TaskWeights]) -> dict[str, float]:
    """The standard deviation of each task's weight from seed to seed; empty below two seeds."""
    if len(by_seed) < 2:
        return {}
    names = list(by_seed[0])
    weights = torch.tensor([[found[task] for task in names] for found in by_seed], dtype=torch.float64)
    return dict(zip(names, weights.std(0).tolist(), strict=True))


def mean_of(rows: Sequence[Sequence[float] | Tensor]) -> Tensor:
    """The mean of one row (n,) per seed.

    Raises:
        ValueError: the rows are of unequal lengths.
    """
    values = [torch.as_tensor(row, dtype=torch.float64) for row in rows]
    if len({value.shape for value in values}) > 1:
        raise ValueError("scores: expected the same items under every seed, got other numbers of them")
    return torch.stack(values).mean(0)


def check_alike(tables: Sequence[ScoreTable]) -> None:
    """Raise ValueError unless there is a table, and all are of the same tasks and transforms."""
    if not tables:
        raise ValueError("scores: expected at least one table, got none")
    first = tables[0]
    if any(list(table.tasks) != list(first.tasks) for table in tables):
        raise ValueError("scores: expected the same tasks in the same order under every seed")
    if any(dict(table.transforms) != dict(first.transforms) for table in tables):
        raise ValueError("scores: expected the same transforms under every seed")
    if any((table.equal is None) != (first.equal is None) for table in tables):
        raise ValueError("scores: expected a row equal under every seed or under none")
