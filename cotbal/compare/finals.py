"""The test scores of final models, by method, seed and test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# The metric of a column that names none.
UNNAMED = "score"


class Column(NamedTuple):
    """A test set of a task.

    Attributes:
        task: the task.
        test: the name of the set, "" where the task has one.
        metric: the name of the score.
        better: "higher" or "lower".
        source: "test", or "validation" where the task has no test files.
    """

    task: str
    test: str = ""
    metric: str = UNNAMED
    better: str = "higher"
    source: str = "test"

    @property
    def name(self) -> str:
        """The task, and after a slash the set where it has a name."""
        return f"{self.task}/{self.test}" if self.test else self.task


@dataclass(frozen=True)
class Model:
    """What a method scored under one seed; of STL the models of all tasks together.

    Attributes:
        scores: by the name of the column, those that are measured.
        items: likewise, the scores by item where they are kept.
        details: what else is known of it, as JSON values: weights, folders.
    """

    scores: Mapping[str, float]
    items: Mapping[str, Sequence[float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finals:
    """The final models of several methods.

    Attributes:
        columns: the test sets, those of a task one after another.
        models: by method and seed.
        clusters: {column: a number per item}, equal for items that belong together; none at all where not all
            models have the same.
        sha256: {column: that of the file whose items were scored}, where it is known; "" where not all models
            have the same.
    """

    columns: tuple[Column, ...]
    models: Mapping[str, Mapping[int, Model]]
    clusters: Mapping[str, Sequence[int]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of their columns."""
        return list(dict.fromkeys(column.task for column in self.columns))

    def missing(self, method: str) -> list[str]:
        """The columns in which a method has no score under some seed; all of them where it has no model."""
        models = self.models[method].values()
        return [
            column.name
            for column in self.columns
            if not models or any(column.name not in model.scores for model in models)
        ]

    def scores(self, method: str) -> dict[str, float]:
        """The mean over the seeds in every column of a method that misses none."""
        models = self.models[method].values()
        names = [column.name for column in self.columns]
        return {name: sum(model.scores[name] for model in models) / len(models) for name in names}


def add_clusters(clusters: dict[str, Sequence[int]], column: str, numbers: Sequence[int]) -> None:
    """Adds the clusters of one more model to the `clusters` of a `Finals`."""
    if list(clusters.setdefault(column, numbers)) != list(numbers):
        # Other items, or another order of them: nothing to pair.
        clusters[column] = []


def merged(named: Mapping[str, Finals]) -> Finals:
    """All methods of several tables, a name that comes twice with that of its table in brackets.

    What has the same scores and items under one name in two tables is the same model, and stands once.

    Args:
        named: the tables by name, the first one's columns lead.

    Raises:
        ValueError: tables of other test sets or metrics.
    """
    first, *others = named
    columns = {column.name: column for column in named[first].columns}
    for other in others:
        theirs = {column.name: column for column in named[other].columns}
        if theirs.keys() != columns.keys():
            difference = ", ".join(sorted(theirs.keys() ^ columns.keys()))
            raise ValueError(f"{other}: expected the test sets of {first}; not in both: {difference}")
        for name, column in columns.items():
            columns[name] = _common(column, theirs[name], first, other)
    kept: list[tuple[str, str, Mapping[int, Model]]] = []
    for table, finals in named.items():
        for method, by_seed in finals.models.items():
            if not any(method == known and _alike(by_seed, found) for _, known, found in kept):
                kept.append((table, method, by_seed))
    counts = Counter(method for _, method, _ in kept)
    models = {f"{method} ({table})" if counts[method] > 1 else method: found for table, method, found in kept}
    return Finals(tuple(columns.values()), models, *_items_of([named[table] for table, *_ in kept]))


def _items_of(tables: Sequence[Finals]) -> tuple[dict[str, Sequence[int]], dict[str, str]]:
    """The clusters of all tables and the SHA-256 of their files, as in `Finals`."""
    clusters: dict[str, Sequence[int]] = {}
    sha256: dict[str, str] = {}
    for finals in tables:
        for name, numbers in finals.clusters.items():
            add_clusters(clusters, name, numbers)
        for name, digest in finals.sha256.items():
            sha256[name] = digest if sha256.get(name, digest) == digest else ""
    for name in clusters:
        some_without = any(name not in finals.clusters for finals in tables)
        if some_without and any(name not in finals.sha256 for finals in tables):
            # Theirs may be other items.
            clusters[name] = []
    return clusters, sha256


def _common(column: Column, theirs: Column, first: str, other: str) -> Column:
    """The column of two tables; one of validation scores where either's are."""
    if theirs.better != column.better:
        raise ValueError(f"{other}: {column.name}: {first} says that {column.better} is better, it does not")
    # A CSV does not tell its metric.
    if theirs.metric != column.metric and UNNAMED not in (theirs.metric, column.metric):
        raise ValueError(
            f"{other}: {column.name}: expected scores by {column.metric} as in {first}, got {theirs.metric}; "
            "score both by one metric"
        )
    return column if theirs.source == "test" else theirs


def _alike(models: Mapping[int, Model], others: Mapping[int, Model]) -> bool:
    return {seed: (model.scores, model.items) for seed, model in models.items()} == {
        seed: (model.scores, model.items) for seed, model in others.items()
    }
