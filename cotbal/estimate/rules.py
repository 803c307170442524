"""Task weights from contribution and difficulty (Eq. 5, 7, 8, 10, 11)."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cotbal.estimate.formulas import weights_of
from cotbal.estimate.rule_names import RULES, USE_ALL2ONE, USE_DIFFICULTY, USE_ONE2ALL
from cotbal.estimate.scores import Scores, as_tables
from cotbal.estimate.seeds import spread
from cotbal.estimate.signals import all2one, one2all, unidentified
from cotbal.estimate.table_signals import TableSignals
from cotbal.tasks import task_names
from cotbal.weights import TaskWeights, checked_weights

Signal = Sequence[float] | Tensor


def estimate_weights(
    scores: Scores | Sequence[Scores],
    *,
    rule: str = "cotbal",
    temperature: float = 0.5,
    alpha: float = 0.5,
    fixed: Mapping[str, float] | None = None,
    precise: bool = False,
    on_unidentified: str = "raise",
    shrink: bool = False,
) -> TaskWeights:
    """Return the task weights that follow from validation scores, with their provenance.

    Args:
        scores: the score table of the N estimated tasks, or one per training seed: their mean counts.
        rule: "cotbal" (Eq. 11), "contribution" (Eq. 8), "one2all" (Eq. 5), "all2one" (Eq. 7), "difficulty"
            (Eq. 10) or "equal" (all 1).
        temperature: T > 0.
        alpha: the share of the contribution in Eq. 11, 0..1.
        fixed: {task: weight} of tasks that take no part in the estimate.
        precise: take the difficulty from the single-task runs.
        on_unidentified: "raise", or "drop" to leave columns that are not identified out of the means.
        shrink: pull each C_ij and D_i to the mean of its kind by its own reliability r = tau^2 / (tau^2 +
            s^2), s its standard error over items and seeds, tau^2 the scatter that is not noise
            (`cotbal.estimate.shrinkage`). Needs items. A column that is not identified is then pulled
            rather than refused, whatever `on_unidentified` says.

    Raises:
        TypeError: a fixed weight is not a number.
        ValueError: fewer than two estimated tasks, an unknown rule, T or alpha out of range, a fixed task
            that is also an estimated one, a column that is not identified, a score <= 0 where Eq. 9 needs it.

    Example:
        >>> scores = Scores(["a", "b"], mini=[0.2, 0.3], probes=[[0.6, 0.4], [0.3, 0.5]])
        >>> estimate_weights(scores, rule="difficulty", fixed={"chat": 1.0}).weights["chat"]
        1.0
    """
    options: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "fixed": fixed}
    signals = _table_signals(scores, precise, shrink)
    return _weights(signals, rule, options, precise, on_unidentified)


def weights_by_rule(
    scores: Scores | Sequence[Scores],
    *,
    temperature: float = 0.5,
    alpha: float = 0.5,
    fixed: Mapping[str, float] | None = None,
    precise: bool = False,
    on_unidentified: str = "raise",
    shrink: bool = False,
) -> tuple[dict[str, TaskWeights], dict[str, str]]:
    """Return the weights by every rule that the scores allow, and for the other rules why they do not.

    The arguments are those of `estimate_weights`.

    Raises:
        TypeError: a fixed weight is not a number.
        ValueError: what no rule allows, such as a T out of range.
    """
    options: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "fixed": fixed}
    signals = _table_signals(scores, precise, shrink)
    found, refused = {"equal": _weights(signals, "equal", options, precise, on_unidentified)}, {}
    for rule in RULES[:-1]:
        try:
            found[rule] = _weights(signals, rule, options, precise, on_unidentified)
        except ValueError as error:
            refused[rule] = str(error)
    return {rule: found[rule] for rule in RULES if rule in found}, refused


def seed_spread(tables: Sequence[Scores], rule: str, **options: Any) -> dict[str, float]:
    """Return the standard deviation of each task's weight from seed to seed, of the seeds that allow weights.

    Args:
        tables: one per training seed.
        rule: as of `estimate_weights`.
        options: its other arguments.
    """
    found = []
    for table in tables:
        try:
            found.append(estimate_weights(table, rule=rule, **options))
        except ValueError:
            # The mean over seeds may allow what this seed's scores alone do not.
            continue
    return spread(found)


def _table_signals(scores: Scores | Sequence[Scores], precise: bool, shrink: bool) -> TableSignals:
    if shrink and precise:
        raise ValueError("shrink: expected the difficulty of the probes; the single-task runs have no items")
    return TableSignals(as_tables(scores), shrink)


def _weights(
    signals: TableSignals, rule: str, options: dict[str, Any], precise: bool, on_unidentified: str
) -> TaskWeights:
    """The weights by a rule with their provenance, from the signals that it needs and no others."""
    table, one, all_, hard = signals.table, None, None, None
    kept: dict[str, Any] = {}
    if rule in USE_ONE2ALL + USE_ALL2ONE:
        C = signals.contribution(on_unidentified)
        one, all_ = one2all(C), all2one(C)
        if signals.shrunk is not None:
            kept["contribution_reliability"] = signals.shrunk.contribution.reliability.tolist()
    if rule in USE_DIFFICULTY:
        hard = signals.difficulty(precise=precise)
        if signals.shrunk is not None:
            kept["difficulty_reliability"] = signals.shrunk.difficulty.reliability.tolist()
    weights = weights_from_signals(one, all_, hard, tasks=table.tasks, rule=rule, **options)
    values = {"mini": table.mini.tolist(), "probes": table.probes.tolist()}
    provenance = {
        "scores": values if table.equal is None else {**values, "equal": table.equal.tolist()},
        "transforms": table.transforms,
        "precise": precise,
        "on_unidentified": on_unidentified,
        "unidentified": list(unidentified(table)),
        "shrink": signals.shrink,
        **kept,
    }
    return dataclasses.replace(weights, provenance=weights.provenance | provenance)


def weights_from_signals(
    one2all: Signal | None,
    all2one: Signal | None,
    difficulty: Signal | None,
    *,
    tasks: Iterable[str],
    rule: str = "cotbal",
    temperature: float = 0.5,
    alpha: float = 0.5,
    fixed: Mapping[str, float] | None = None,
) -> TaskWeights:
    """Return the task weights that follow from the three signals of N tasks; estimated weights sum to N.

        l_one2all = N softmax(C_one2all / T)      l_all2one = N softmax(-C_all2one / T)
        l_C = (l_one2all + l_all2one) / 2         l_D = N softmax(D / T)
        l_CoTBal = alpha l_C + (1 - alpha) l_D

    Args:
        one2all: C_one2all (N,), None where the rule does without it.
        all2one: C_all2one (N,), likewise.
        difficulty: D (N,), likewise.
        tasks: the N task names.
        rule: which of the formulas, as in `estimate_weights`.
        temperature: T > 0.
        alpha: the share of the contribution in Eq. 11, 0..1.
        fixed: {task: weight} of further tasks that take no part in the estimate.

    Raises:
        TypeError: a fixed weight is not a number.
        ValueError: fewer than two tasks, a signal that the rule needs is missing, of another length or not
            finite, an unknown rule, T or alpha out of range, a fixed task among `tasks`, a T or a signal that
            leaves a task a weight of 0 in float32.

    Example:
        >>> weights = weights_from_signals([0, 0], [0, 0], [0, 0], tasks=["a", "b"], fixed={"chat": 1.0})
        >>> dict(weights)
        {'a': 1.0, 'b': 1.0, 'chat': 1.0}
    """
    _check_rule(rule)
    names = task_names(tasks)
    if len(names) < 2:
        raise ValueError(
            f"tasks: expected at least 2 estimated tasks to balance, got {len(names)}: {names[0]}"
        )
    stated = checked_weights(fixed, "fixed") if fixed else {}
    if both := sorted(set(stated) & set(names)):
        raise ValueError(f"fixed: {', '.join(both)} is also an estimated task; take it out of one of the two")
    _check_range(temperature, alpha)
    signals = {
        "one2all": _signal(one2all, names, "one2all", needed=rule in USE_ONE2ALL),
        "all2one": _signal(all2one, names, "all2one", needed=rule in USE_ALL2ONE),
        "difficulty": _signal(difficulty, names, "difficulty", needed=rule in USE_DIFFICULTY),
    }
    estimated = _apply(rule, signals, len(names), temperature, alpha)
    _check_trained(names, estimated, rule, temperature)
    provenance: dict[str, Any] = {"tasks": list(names)}
    provenance |= {name: signal.tolist() for name, signal in signals.items() if signal is not None}
    return TaskWeights(
        dict(zip(names, estimated.tolist(), strict=True)) | stated,
        rule=rule,
        temperature=None if rule == "equal" else temperature,
        alpha=alpha if rule == "cotbal" else None,
        fixed=stated,
        provenance=provenance,
    )


def _apply(
    rule: str, signals: Mapping[str, Tensor | None], n_tasks: int, temperature: float, alpha: float
) -> Tensor:
    if rule == "equal":
        return torch.ones(n_tasks, dtype=torch.float64)
    return weights_of(rule, **signals, temperature=temperature, alpha=alpha)


def _signal(values: Signal | None, tasks: Sequence[str], name: str, *, needed: bool) -> Tensor | None:
    if values is None:
        if needed:
            raise ValueError(f"{name}: the rule needs this signal, got None")
        return None
    signal = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if signal.shape != (len(tasks),):
        raise ValueError(
            f"{name}: expected one value per task, shape ({len(tasks)},), got {tuple(signal.shape)}"
        )
    for task, value in zip(tasks, signal.tolist(), strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{name}: task {task!r}: expected a finite number, got {value}")
    return signal


def _check_trained(tasks: Sequence[str], weights: Tensor, rule: str, temperature: float) -> None:
    """ValueError for a weight that float32, in which the loss has it, does not hold: no softmax is 0."""
    for task, weight, held in zip(tasks, weights.tolist(), weights.float().tolist(), strict=True):
        if not held > 0:
            raise ValueError(
                f"temperature: expected one that leaves every task a weight, got {temperature:g}, by which "
                f"that of task {task!r} under rule {rule} is {weight:g}, 0 in float32: it would not be "
                "trained; take a larger one, or larger sets where a small gain of a task makes the "
                "contribution to it huge"
            )


def _check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {', '.join(RULES)}, got {rule!r}")


def _check_range(temperature: float, alpha: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature: expected a finite number > 0, got {temperature}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected a number in 0..1, got {alpha}")
