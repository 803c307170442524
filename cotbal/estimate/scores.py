"""The table of validation scores that every estimate starts from."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotbal.estimate.clusters import Clusters, checked_clusters
from cotbal.estimate.score_csv import (
    EQUAL,
    MINI,
    SINGLE_FULL,
    SINGLE_MINI,
    TRANSFORM,
    numbers,
    read_score_csv,
    write_score_csv,
)
from cotbal.estimate.strata import Strata, checked_strata
from cotbal.estimate.transforms import checked_transforms, oriented
from cotbal.tasks import RESERVED, task_names, unknown_task

Values = Sequence[float] | Tensor
Items = Mapping[str, Mapping[str, Values]]


@dataclass(frozen=True, eq=False, init=False)
class Scores:
    """Validation scores V of the mini run, the N probe runs and, where given, of single-task runs.

    The score of a task with several validation sets is their plain mean.

    Args:
        tasks: the N task names.
        mini: (N,), V_j(mini) of the model trained on the mini subsets of all tasks.
        probes: (N, N), probes[i][j] = V_j(i+mini) of the model with the full set of task i.
        single_mini: (N,), V_i of the model trained on the mini subset of task i alone (precise difficulty).
        single_full: (N,), V_i of the model trained on the full set of task i alone.
        equal: (N,), V_i of the model trained on all data with equal weights, in the place of the probe's
            V_i(i+mini) in the difficulty; for probes that have a share of their task only.
        items: {run: {task: 1-d scores}}, a run being "mini", the task of a probe or "equal", the items in the
            same order in every run; their mean is the score. They give the standard error that tells whether
            a column is identified.
        clusters: {task: a whole number per item}, equal for items that belong together, such as the
            questions on one image; what they have in common counts once in errors and intervals.
        strata: {task: a whole number per item}, equal for items of one validation set, where the score is the
            plain mean over several of the mean of each one's items. Errors and intervals are those of items
            drawn within each set; a task that is not there has one.
        transforms: {task: "reciprocal" or "complement: bound"} where lower is better. Scores are given and
            kept as measured; the signals use 1/m or bound - m.

    Raises:
        TypeError: a task name is not a string.
        ValueError: a wrong shape, a score that is not a finite number, a repeated or reserved task name, one
            of single_mini and single_full without the other, items of an unknown run or of unequal lengths,
            clusters or strata of a task without items or not one number per item, or a stratum of one item
            or cluster.

    Example:
        >>> scores = Scores(["a", "b"], mini=[0.2, 0.3], probes=[[0.6, 0.4], [0.3, 0.5]])
        >>> scores.probes[0, 1].item()
        0.4
    """

    tasks: tuple[str, ...]
    mini: Tensor
    probes: Tensor
    single_mini: Tensor | None
    single_full: Tensor | None
    equal: Tensor | None
    items: dict[str, dict[str, Tensor]]
    clusters: dict[str, Tensor]
    strata: dict[str, Tensor]
    transforms: dict[str, str]

    def __init__(
        self,
        tasks: Iterable[str],
        mini: Values,
        probes: Sequence[Values] | Tensor,
        *,
        single_mini: Values | None = None,
        single_full: Values | None = None,
        equal: Values | None = None,
        items: Items | None = None,
        clusters: Clusters | None = None,
        strata: Strata | None = None,
        transforms: Mapping[str, str] | None = None,
    ) -> None:
        names = task_names(tasks)
        if reserved := [name for name in names if name in RESERVED]:
            raise ValueError(f"tasks: {', '.join(reserved)} names a row of the score table; rename the task")
        if (single_mini is None) != (single_full is None):
            raise ValueError(
                "single_mini, single_full: expected both or neither; the precise difficulty needs both"
            )
        size = len(names)
        checked = _checked_items(items or {}, names)
        values = {
            "tasks": names,
            "mini": _scores(mini, (size,), MINI, names),
            "probes": _scores(probes, (size, size), "probes", names),
            "single_mini": None if single_mini is None else _scores(single_mini, (size,), SINGLE_MINI, names),
            "single_full": None if single_full is None else _scores(single_full, (size,), SINGLE_FULL, names),
            "equal": None if equal is None else _scores(equal, (size,), EQUAL, names),
            "items": checked,
            "clusters": checked_clusters(clusters or {}, checked),
            "strata": checked_strata(strata or {}, checked, clusters or {}),
            "transforms": checked_transforms(transforms, names),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def oriented(self, run: str) -> Tensor:
        """Return a row (N,), such as "mini" or "equal", or "probes" (N, N), with higher being better.

        Raises:
            ValueError: the single-task runs are asked for and were not given, or a transform cannot be made.
        """
        values = getattr(self, run)
        if values is None:
            raise ValueError(
                f"{run}: the precise difficulty needs the single-task runs; give single_mini and single_full"
            )
        return oriented(values, self.tasks, self.transforms)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        items: Items | None = None,
        clusters: Clusters | None = None,
        strata: Strata | None = None,
    ) -> "Scores":
        """Return the scores in a CSV file: header `run,<task>,...`, rows `mini` and one per task.

        Rows `single_mini`, `single_full` and `transform` are optional.

        Args:
            path: the file.
            items: the per-item scores, which are no part of the file.
            clusters: which of them belong together, likewise.
            strata: of which validation set each is, likewise.

        Raises:
            OSError: the file cannot be read.
            ValueError: a missing, repeated or unknown row, a cell that is missing or not a finite number.
        """
        try:
            tasks, cells = read_score_csv(path)
            if tasks[0] not in cells:
                raise ValueError("expected a row for every task's probe; this is a table of mode no-probes")
            rows = {name: numbers(cells[name], tasks, name) for name in cells if name != TRANSFORM}
            named = zip(tasks, cells.get(TRANSFORM, [""] * len(tasks)), strict=True)
            return cls(
                tasks,
                rows[MINI],
                [rows[task] for task in tasks],
                single_mini=rows.get(SINGLE_MINI),
                single_full=rows.get(SINGLE_FULL),
                items=items,
                clusters=clusters,
                strata=strata,
                equal=rows.get(EQUAL),
                transforms={task: transform for task, transform in named if transform},
            )
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from error

    def to_csv(self, path: str | Path) -> Path:
        """Return `path` after writing all but the items there; `from_csv` reads the same numbers back."""
        rows: dict[str, list[Any]] = {MINI: self.mini.tolist()}
        rows |= dict(zip(self.tasks, self.probes.tolist(), strict=True))
        if self.single_mini is not None and self.single_full is not None:
            rows |= {SINGLE_MINI: self.single_mini.tolist(), SINGLE_FULL: self.single_full.tolist()}
        if self.equal is not None:
            rows[EQUAL] = self.equal.tolist()
        if self.transforms:
            rows[TRANSFORM] = [self.transforms.get(task, "") for task in self.tasks]
        return write_score_csv(path, self.tasks, rows)


def as_tables(scores: Scores | Sequence[Scores]) -> list[Scores]:
    """The tables by seed; a table alone is that of one.

    Raises:
        TypeError: something else.
    """
    tables = [scores] if isinstance(scores, Scores) else list(scores)
    for table in tables:
        if not isinstance(table, Scores):
            raise TypeError(
                f"scores: expected a table or several, got {type(table).__name__}; make it by Scores(...) or "
                "Scores.from_csv(...)"
            )
    return tables


def _scores(values: Any, shape: tuple[int, ...], run: str, tasks: tuple[str, ...]) -> Tensor:
    table = _float64(values, run)
    if table.shape != shape:
        raise ValueError(f"{run}: expected shape {shape} for {len(tasks)} tasks, got {tuple(table.shape)}")
    if not bool(table.isfinite().all()):
        place = (~table.isfinite()).nonzero()[0].tolist()
        name, column = tasks[place[0]] if len(place) == 2 else run, place[-1]
        value = table[tuple(place)].item()
        raise ValueError(f"run {name!r}, task {tasks[column]!r}: expected a finite score, got {value}")
    return table


def _float64(values: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(values, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name}: expected rows of numbers of equal length, got {values!r} ({error})"
        ) from error


def _checked_items(items: Items, tasks: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    checked: dict[str, dict[str, Tensor]] = {}
    lengths: dict[str, int] = {}
    for run, by_task in items.items():
        if run not in (MINI, *tasks, EQUAL):
            raise ValueError(f"items: no such run {unknown_task(run, (MINI, *tasks, EQUAL))}")
        checked[run] = {}
        for task, values in by_task.items():
            where = f"items[{run!r}][{task!r}]"
            if task not in tasks:
                raise ValueError(f"{where}: no such task {unknown_task(task, tasks)}")
            scores = _float64(values, where)
            if scores.dim() != 1 or not len(scores):
                raise ValueError(f"{where}: expected a 1-d list of scores, got shape {tuple(scores.shape)}")
            if wrong := scores[~scores.isfinite()].tolist():
                raise ValueError(f"{where}: expected finite scores, got {wrong[0]}")
            if lengths.setdefault(task, len(scores)) != len(scores):
                raise ValueError(
                    f"{where}: expected {lengths[task]} items as in the other runs, got {len(scores)}; "
                    "every run must score the same items in the same order"
                )
            checked[run][task] = scores
    return checked
