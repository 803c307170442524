"""What an estimate came to, as the results dictionary that figures, page and card are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cotbal.estimate.doubts import doubts
from cotbal.estimate.resample import tasks_without_items
from cotbal.estimate.rule_names import RULES
from cotbal.estimate.rules import seed_spread, weights_by_rule
from cotbal.estimate.score_csv import MINI
from cotbal.estimate.scores import Scores
from cotbal.estimate.seeds import ScoreTable
from cotbal.estimate.signals import ON_UNIDENTIFIED, all2one, contribution, one2all, unidentified
from cotbal.estimate.table_signals import TableSignals
from cotbal.estimate.uncertainty import uncertainty
from cotbal.report.noise import named, statements

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How the weights follow from the scores.

    Attributes:
        rule: the rule whose weights are used.
        temperature: T.
        alpha: the share of the contribution in rule cotbal.
        fixed: {task: weight} of the tasks that take no part.
        precise: difficulty from the runs on each task alone.
        step_matched: the mini run took as many steps as the mean probe.
        on_unidentified: "raise" or "drop", as of `estimate_weights`.
        shrink: pull C and D to their means, as of `estimate_weights`.
        metrics: {task: name of its score}; "score" where it is not named.
        is_cheap: the probes have a quarter of their task, as in the mode cheap of a project.
    """

    rule: str = "cotbal"
    temperature: float = 0.5
    alpha: float = 0.5
    fixed: Mapping[str, float] = field(default_factory=dict)
    precise: bool = False
    on_unidentified: str = "raise"
    shrink: bool = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    step_matched: bool = False
    is_cheap: bool = False


def estimate_results(tables: Sequence[Scores], settings: Settings, *, source: str) -> dict[str, Any]:
    """Return the results dictionary of an estimate: as that of the demo, without tests, with intervals.

    Args:
        tables: one score table per training seed; they are pooled.
        settings: how the weights follow.
        source: what the numbers are of, in a few words.

    Raises:
        ValueError: an unknown rule, T or alpha out of range, other tasks in another table, wrong items.
    """
    signals = TableSignals(tables, settings.shrink)
    scores = signals.table
    weights, refused = _weights(tables, settings)
    reason = no_intervals(tables)
    intervals = None if reason else _intervals(tables, settings)
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
        "step_matched": settings.step_matched,
        "is_cheap": settings.is_cheap,
        "has_equal": scores.equal is not None,
        "transforms": dict(scores.transforms),
        "seeds": [0],
        "by_seed": {"0": {**_signals(signals, settings.precise), "weights": weights}},
        "seed_sd": _spread(tables, settings),
        "shrink": _is_shrunk(signals),
        "intervals": intervals,
        "n_items": None if reason else n_items(tables),
        "no_intervals": reason,
        "no_weights": refused,
    }
    scales = doubts({f"table {number}": table for number, table in enumerate(tables, start=1)})
    return {**results, "statements": [f"Of the scales: {doubt}." for doubt in scales] + statements(results)}


def no_intervals(tables: Sequence[ScoreTable]) -> str | None:
    """Return why score tables allow no intervals, None where they do."""
    lacking = tasks_without_items(tables)
    if lacking and any(table.items for table in tables):
        return f"there are no per-item scores of {named(lacking)} in every run"
    if lacking:
        return "no per-item scores were given"
    single = [task for task, count in n_items(tables).items() if count < 2]
    return f"all items of {named(single)} are one, or belong together" if single else None


def n_items(tables: Sequence[ScoreTable]) -> dict[str, int]:
    """Return how many items, or clusters of them, each task is scored on, in tables that have them all.

    Of several validation sets it is the smallest one's: the score is the plain mean over them.
    """
    return {task: _fewest(tables[0], task) for task in tables[0].tasks}


def _fewest(table: ScoreTable, task: str) -> int:
    places = range(len(table.items[MINI][task]))
    found: dict[int, set[int]] = {}
    for cluster, of_set in zip(
        table.clusters.get(task, places), table.strata.get(task, [0] * len(places)), strict=True
    ):
        found.setdefault(int(of_set), set()).add(int(cluster))
    return min(map(len, found.values()))


def _weights(
    tables: Sequence[Scores], settings: Settings
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The weights of every rule that the scores allow; for the others why not."""
    if settings.rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {settings.rule!r}")
    if settings.on_unidentified not in ON_UNIDENTIFIED:
        raise ValueError(f"on_unidentified: expected 'raise' or 'drop', got {settings.on_unidentified!r}")
    if settings.precise:
        tables[0].oriented("single_mini")
    found, refused = weights_by_rule(tables, **_options(settings))
    return {rule: dict(weights) for rule, weights in found.items()}, refused


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "temperature": settings.temperature,
        "alpha": settings.alpha,
        "fixed": dict(settings.fixed) or None,
        "precise": settings.precise,
        "on_unidentified": settings.on_unidentified,
        "shrink": settings.shrink,
    }


def _spread(tables: Sequence[Scores], settings: Settings) -> dict[str, float] | None:
    """From seed to seed, of the weights in use; None where fewer than two seeds allow them."""
    if len(tables) == 1:
        return None
    return seed_spread(tables, settings.rule, **_options(settings)) or None


def _signals(signals: TableSignals, precise: bool) -> dict[str, Any]:
    """C as measured, and the signals that the weights are made from."""
    scores = signals.table
    entry: dict[str, Any] = {
        **measured(scores, contribution(scores, on_unidentified="drop")),
        "gains": (scores.oriented("probes").diagonal() - scores.oriented("mini")).tolist(),
        "unidentified": unidentified(scores),
    }
    makers = {
        "one2all": lambda: one2all(signals.contribution("drop")),
        "all2one": lambda: all2one(signals.contribution("drop")),
        "difficulty": lambda: signals.difficulty(precise=precise),
    }
    return {**entry, **{name: _values(make, len(scores.tasks)) for name, make in makers.items()}}


def measured(scores: Scores, C: Tensor) -> dict[str, Any]:
    """Return the "scores" and the "contribution" of a seed's results, null where C is not identified."""
    tasks = scores.tasks
    return {
        "scores": {
            "mini": dict(zip(tasks, scores.mini.tolist(), strict=True)),
            "probes": {
                trained: dict(zip(tasks, row, strict=True))
                for trained, row in zip(tasks, scores.probes.tolist(), strict=True)
            },
        },
        "contribution": [[None if math.isnan(cell) else cell for cell in row] for row in C.tolist()],
    }


def _is_shrunk(signals: TableSignals) -> bool:
    """Whether the signals are pulled; not where the scores allow it for none."""
    try:
        return signals.shrunk is not None
    except ValueError:
        return False


def _values(make: Any, size: int) -> list[float | None]:
    """The signal; nothing for any task where the scores do not allow it."""
    try:
        signal: Tensor = make()
    except ValueError:
        return [None] * size
    return [value if math.isfinite(value) else None for value in signal.tolist()]


def _intervals(tables: Sequence[Scores], settings: Settings) -> dict[str, Any]:
    return uncertainty(
        tables,
        temperature=settings.temperature,
        alpha=settings.alpha,
        precise=settings.precise,
    ).to_json()
