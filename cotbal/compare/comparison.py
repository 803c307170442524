"""Several methods side by side: scores, dI and dE against a baseline (Eq. 12-14), with intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cotbal.compare.finals import Finals, Model
from cotbal.compare.noise import Drawn, draw, n_items, why_no_intervals
from cotbal.compare.statements import statements
from cotbal.metrics import delta_e, delta_i, improvement

SCHEMA_VERSION = 1
MEASURES = {"delta_i": delta_i, "delta_e": delta_e}
LEVEL = 0.95


def compare(
    finals: Finals,
    methods: Sequence[str] | None = None,
    *,
    baseline: str = "STL",
    reference: str | None = None,
    same: Mapping[str, str] | None = None,
    title: str = "",
    draws: int = 2000,
) -> dict[str, Any]:
    """Return the comparison as JSON values: columns, methods with scores and measures, what is missing.

    With several seeds a score is the mean over them, and so are the measures of the mean scores. Intervals
    are of the paired bootstrap: the same items, and the same seeds, are drawn for all methods.

    Args:
        finals: the models.
        methods: which, in the order of the table; None: all. The baseline comes first where it is known.
        baseline: what dI and dE are relative to.
        reference: the method from which differences are taken; None: EW where it is there.
        same: {method: another one that is the same model}, to be told.
        title: of the table.
        draws: of the bootstrap.

    Raises:
        ValueError: a method that is not there, or none that has all its scores.
    """
    whole, missing = _finished(finals, methods or list(finals.models), baseline)
    scores = {name: finals.scores(name) for name in whole}
    gains, refused = _gains(finals, scores, baseline)
    reason = why_no_intervals(finals, whole)
    drawn = None if reason else draw(finals, whole, baseline if gains else None, draws)
    against = reference or ("EW" if "EW" in whole and baseline != "EW" else None)
    against = against if against in whole and gains else None
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "title": title,
        "baseline": baseline if gains else None,
        "reference": against,
        "columns": [{"name": column.name, **column._asdict()} for column in finals.columns],
        "seeds": sorted({seed for name in whole for seed in finals.models[name]}),
        "one_training": [name for name in whole if _is_one_training(finals.models[name].values())],
        "level": None if drawn is None else LEVEL,
        "n_items": None if drawn is None else n_items(finals, whole[0]),
        "no_intervals": reason,
        "no_measures": refused,
        "methods": [
            {**_row(name, scores[name], gains, drawn, against, same or {}), "weights": _weights(finals, name)}
            for name in whole
        ],
        "missing": missing,
    }
    return {**content, "statements": statements(content)}


def _finished(
    finals: Finals, methods: Sequence[str], baseline: str
) -> tuple[list[str], dict[str, list[str]]]:
    """The methods that have all their scores, the baseline first; and what the others miss."""
    order = list(dict.fromkeys([*([baseline] if baseline in finals.models else []), *methods]))
    if unknown := [name for name in order if name not in finals.models]:
        raise ValueError(f"no model of {', '.join(unknown)}; there are {', '.join(finals.models) or 'none'}")
    missing = {name: lost for name in order if (lost := finals.missing(name))}
    whole = [name for name in order if name not in missing]
    if not whole:
        raise ValueError(f"no method has all its scores; missing: {_told(missing)}")
    return whole, missing


def _gains(
    finals: Finals, scores: Mapping[str, Mapping[str, float]], baseline: str
) -> tuple[dict[str, dict[str, float]], str | None]:
    """I of every task by method (Eq. 12); none, with the reason, where the baseline allows none."""
    if baseline not in scores:
        known = ", ".join(scores) or "none"
        reason = f"ΔI and ΔE need the baseline {baseline}, which is not among the finished models ({known})"
        # That of one of several tables.
        namesake = next((name for name in scores if name.startswith(f"{baseline} (")), None)
        return {}, f'{reason}; choose one: --baseline "{namesake}"' if namesake else reason
    lower = [column.name for column in finals.columns if column.better == "lower"]

    def by_task(name: str) -> dict[str, dict[str, float]]:
        return {
            task: {c.name: scores[name][c.name] for c in finals.columns if c.task == task}
            for task in finals.tasks
        }

    try:
        base = by_task(baseline)
        return {name: improvement(by_task(name), base, lower_is_better=lower) for name in scores}, None
    except ValueError as error:
        return {}, f"ΔI and ΔE are not defined: {error}"


def _row(
    name: str,
    scores: Mapping[str, float],
    gains: Mapping[str, Mapping[str, float]],
    drawn: Drawn | None,
    against: str | None,
    same: Mapping[str, str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "same_as": same.get(name), "scores": dict(scores)}
    row["score_intervals"] = None if drawn is None else drawn.score_intervals(name, LEVEL)
    row["improvement"] = dict(gains[name]) if gains else None
    for key, measure in MEASURES.items():
        values = {method: measure(of_method) for method, of_method in gains.items()}
        row[key] = values.get(name)
        row[f"{key}_interval"] = (
            drawn.interval(key, name, LEVEL, measured=values) if drawn is not None and values else None
        )
        if not values or against is None or name == against:
            row[f"{key}_difference"] = row[f"{key}_difference_interval"] = None
            continue
        row[f"{key}_difference"] = values[name] - values[against]
        row[f"{key}_difference_interval"] = (
            None if drawn is None else drawn.interval(key, name, LEVEL, measured=values, against=against)
        )
    return row


def _is_one_training(of_seeds: Collection[Model]) -> bool:
    """Whether the models of several seeds are one, as that of equal weights which a mode starts from."""
    folders = {tuple((model.details.get("models") or {}).values()) for model in of_seeds}
    return len(of_seeds) > 1 and len(folders) == 1 and folders not in ({()}, {(None,)})


def _weights(finals: Finals, method: str) -> dict[str, float] | str | None:
    """The weights of a method, the mean over the seeds; the name of a rule that changes them."""
    details = [model.details for model in finals.models[method].values()]
    if any(of_seed.get("rule") for of_seed in details):
        return str(details[0]["rule"]["rule"])
    known = [of_seed["weights"] for of_seed in details if of_seed.get("weights")]
    if len(known) < len(details) or not known:
        return None
    return {task: sum(weights[task] for weights in known) / len(known) for task in known[0]}


def _told(missing: Mapping[str, Iterable[str]]) -> str:
    return "; ".join(f"{name}: {', '.join(columns)}" for name, columns in missing.items())
