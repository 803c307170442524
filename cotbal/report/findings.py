"""What an estimate came to, as the results dictionary that figures, page and card are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cotbal.estimate.clusters import Clusters
from cotbal.estimate.rules import RULES, USE_DIFFICULTY, estimate_weights
from cotbal.estimate.scores import Scores
from cotbal.estimate.signals import all2one, contribution, difficulty, one2all, unidentified
from cotbal.estimate.uncertainty import pooled_scores, uncertainty
from cotbal.report.noise import statements

SCHEMA_VERSION = 1
NO_ITEMS = "no per-item scores were given"


@dataclass(frozen=True)
class Settings:
    """How the weights follow from the scores.

    Attributes:
        rule: the rule whose weights are used.
        temperature: T.
        alpha: the share of the contribution in rule cotbal.
        fixed: {task: weight} of the tasks that take no part.
        precise: difficulty from the runs on each task alone.
        on_unidentified: "raise" or "drop", as of `estimate_weights`.
        metrics: {task: name of its score}; "score" where it is not named.
    """

    rule: str = "cotbal"
    temperature: float = 0.5
    alpha: float = 0.5
    fixed: Mapping[str, float] = field(default_factory=dict)
    precise: bool = False
    on_unidentified: str = "raise"
    metrics: Mapping[str, str] = field(default_factory=dict)


def estimate_results(
    tables: Sequence[Scores], settings: Settings, *, source: str, clusters: Clusters | None = None
) -> dict[str, Any]:
    """Return the results dictionary of an estimate: as that of the demo, without tests, with intervals.

    Args:
        tables: one score table per training seed; they are pooled.
        settings: how the weights follow.
        source: what the numbers are of, in a few words.
        clusters: {task: a number per item}, equal for items that belong together.

    Raises:
        ValueError: an unknown rule, T or alpha out of range, other tasks in another table, wrong items.
    """
    scores = pooled_scores(tables)
    weights, refused = _weights(scores, settings)
    has_items = all(table.items for table in tables)
    intervals = _intervals(tables, settings, clusters) if has_items else None
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "estimate",
        "source": source,
        "tasks": list(scores.tasks),
        "fixed": dict(settings.fixed),
        "metrics": {task: settings.metrics.get(task, "score") for task in (*scores.tasks, *settings.fixed)},
        "rule": settings.rule,
        "temperature": settings.temperature,
        "alpha": settings.alpha,
        "precise": settings.precise,
        "is_cheap": scores.equal is not None,
        "transforms": dict(scores.transforms),
        "seeds": [0],
        "by_seed": {"0": {**_signals(scores, settings.precise), "weights": weights}},
        "intervals": intervals,
        "no_intervals": None if intervals else NO_ITEMS,
        "no_weights": refused,
    }
    return {**results, "statements": statements(results)}


def _weights(scores: Scores, settings: Settings) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The weights of every rule that the scores allow; for the others why not."""
    found, refused = {}, {}
    options: dict[str, Any] = {
        "temperature": settings.temperature,
        "alpha": settings.alpha,
        "fixed": dict(settings.fixed) or None,
    }
    # A mistake in the settings raises here; below, only what the scores do not allow is left.
    estimate_weights(scores, rule="equal", **options)
    if settings.rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {settings.rule!r}")
    contribution(
        scores, on_unidentified="drop" if settings.on_unidentified == "raise" else settings.on_unidentified
    )
    if settings.precise:
        scores.oriented("single_mini")
    for rule in RULES:
        try:
            weights = estimate_weights(
                scores,
                rule=rule,
                precise=settings.precise,
                on_unidentified=settings.on_unidentified,
                **options,
            )
            found[rule] = dict(weights)
        except ValueError as error:
            refused[rule] = str(error)
    return found, refused


def _signals(scores: Scores, precise: bool) -> dict[str, Any]:
    tasks = scores.tasks
    C = contribution(scores, on_unidentified="drop")
    entry: dict[str, Any] = {
        "scores": {
            "mini": dict(zip(tasks, scores.mini.tolist(), strict=True)),
            "probes": {
                trained: dict(zip(tasks, row, strict=True))
                for trained, row in zip(tasks, scores.probes.tolist(), strict=True)
            },
        },
        "contribution": [[None if math.isnan(cell) else cell for cell in row] for row in C.tolist()],
        "unidentified": unidentified(scores),
    }
    makers = {
        "one2all": lambda: one2all(C),
        "all2one": lambda: all2one(C),
        "difficulty": lambda: difficulty(scores, precise=precise),
    }
    return {**entry, **{name: _values(make, len(tasks)) for name, make in makers.items()}}


def _values(make: Any, size: int) -> list[float | None]:
    """The signal; nothing for any task where the scores do not allow it."""
    try:
        signal: Tensor = make()
    except ValueError:
        return [None] * size
    return [value if math.isfinite(value) else None for value in signal.tolist()]


def _intervals(
    tables: Sequence[Scores], settings: Settings, clusters: Clusters | None
) -> dict[str, Any] | None:
    found = uncertainty(
        tables, temperature=settings.temperature, alpha=settings.alpha, clusters=clusters
    ).to_json()
    if settings.precise:
        # They are of the difficulty from the mini run and the probes, which is another quantity.
        found["difficulty"] = None
        found["weights"] = {
            rule: None if rule in USE_DIFFICULTY else of_rule for rule, of_rule in found["weights"].items()
        }
    return found
