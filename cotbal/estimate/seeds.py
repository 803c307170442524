"""Score tables of several training seeds: the same tasks and items, models of other random numbers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cotbal.estimate.scores import Scores
from cotbal.weights import TaskWeights


def pooled_scores(tables: Sequence[Scores]) -> Scores:
    """One table of the means over seeds, of scores and of each item.

    Raises:
        ValueError: no table, or other tasks, transforms or numbers of items under another seed.
    """
    _check_alike(tables)
    first = tables[0]
    if len(tables) == 1:
        return first
    # An item that one seed lacks is lacking.
    items = {
        run: {
            task: _mean([table.items[run][task] for table in tables])
            for task in first.items[run]
            if all(task in table.items.get(run, {}) for table in tables)
        }
        for run in first.items
    }
    alone = {
        name: [value for table in tables if (value := getattr(table, name)) is not None]
        for name in ("single_mini", "single_full")
    }
    return Scores(
        first.tasks,
        _mean([table.mini for table in tables]),
        _mean([table.probes for table in tables]),
        items=items,
        transforms=first.transforms,
        **{name: _mean(found) for name, found in alone.items() if len(found) == len(tables)},
    )


def spread(by_seed: Mapping[int, TaskWeights]) -> dict[str, float]:
    """The standard deviation of each task's weight from seed to seed, of at least two seeds."""
    tables = list(by_seed.values())
    weights = torch.tensor([[table[task] for task in tables[0]] for table in tables], dtype=torch.float64)
    return dict(zip(tables[0], weights.std(0).tolist(), strict=True))


def _mean(values: Sequence[Tensor]) -> Tensor:
    if len({value.shape for value in values}) > 1:
        raise ValueError("scores: expected the same items under every seed, got other numbers of them")
    return torch.stack(list(values)).mean(0)


def _check_alike(tables: Sequence[Scores]) -> None:
    if not tables:
        raise ValueError("scores: expected at least one table, got none")
    if any(table.tasks != tables[0].tasks for table in tables):
        raise ValueError("scores: expected the same tasks in the same order under every seed")
    if any(table.transforms != tables[0].transforms for table in tables):
        raise ValueError("scores: expected the same transforms under every seed")
