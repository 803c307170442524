"""What the noise of an estimate allows to be said, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cotbal.estimate.few_items import alike, few_items
from cotbal.estimate.few_seeds import few_seeds
from cotbal.estimate.rule_names import USE_ALL2ONE, USE_ONE2ALL
from cotbal.report import seeds

MOST_NAMED = 12
ONE_SEED = (
    "The intervals are over the validation items: one seed tells nothing of what another training would have "
    "scored."
)
FROM_EQUAL = (
    "D is from the row equal, the model of equal weights, and not from the score of each task in its own row."
)
ONE_EQUAL = (
    "The model of equal weights is one training under all seeds: in the intervals of D, and of what needs D, "
    "its noise between trainings is taken to be that of the mini run and the probes."
)
PULLED = (
    "The intervals are of the values before they are pulled, as is what they tell from noise; a pulled value "
    "outside its interval is hardly the true one."
)


def statements(results: Mapping[str, Any]) -> list[str]:
    """What a reader should know before using the weights, the most important first.

    Args:
        results: all of an estimate's results but its "statements".
    """
    return [
        *_about_weights(results),
        *_about_shrinkage(results),
        *([FROM_EQUAL] if results["has_equal"] and not results["precise"] else []),
        *_about_denominators(results),
        *_about_intervals(results),
    ]


def lost_columns(results: Mapping[str, Any]) -> dict[str, str]:
    """The tasks whose denominator is <= 0 or inside its noise, each with the reason."""
    (entry,) = results["by_seed"].values()
    return {**entry["unidentified"], **seeds.intervals(results).get("unidentified", {})}


def without_value(results: Mapping[str, Any]) -> list[str]:
    """The tasks of an identified column of C whose reciprocal has no value in some draws."""
    found, (entry,) = seeds.intervals(results), results["by_seed"].values()
    rows = [found["mini"], *found["probes"]] if found else []
    lacking = {task for row in rows for task, ends in zip(results["tasks"], row, strict=True) if ends is None}
    return [task for task in results["tasks"] if task in lacking and task not in entry["unidentified"]]


def order_of_weights(results: Mapping[str, Any], rule: str) -> list[tuple[str, str, float]]:
    """Neighbours in the order of the weights, and the probability that the first one's is the larger."""
    of_rule = (seeds.intervals(results).get("weights") or {}).get(rule)
    if of_rule is None or rule not in seeds.rules(results):
        return []
    tasks = list(results["tasks"])
    values = [value.mean or 0.0 for value in seeds.weights(results, rule).values()]
    order = sorted(range(len(tasks)), key=lambda place: values[place], reverse=True)
    return [(tasks[a], tasks[b], of_rule["larger"][a][b]) for a, b in pairwise(order)]


def scored_alike(tasks: Sequence[str], intervals: Mapping[str, Any]) -> list[str]:
    """A sentence on the scores of which every item is alike, by the intervals of an `Uncertainty` as JSON."""
    rows = {"mini": intervals["mini"], **dict(zip(tasks, intervals["probes"], strict=True))}
    return alike(
        {
            f"{task} in row {row}": ends
            for row, of_row in rows.items()
            for task, ends in zip(tasks, of_row, strict=True)
        }
    )


def named(tasks: Iterable[str]) -> str:
    """The names, at most a dozen of them."""
    names = list(tasks)
    rest = len(names) - MOST_NAMED
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:MOST_NAMED])} and {rest} more"


def _about_weights(results: Mapping[str, Any]) -> list[str]:
    rule, refused = results["rule"], results["no_weights"]
    if rule in refused:
        return [f"There are no weights under rule {rule}: {refused[rule].removeprefix('scores: ')}."]
    found = {name: of_rule for name, of_rule in _judged(results).items() if of_rule is not None}
    if rule not in found:
        return []
    less = "The weights under rule {} differ from equal weights by less than their noise."
    more = "The weights under rule {} differ from equal weights by more than their noise."
    lines = [(less if found[rule]["is_noise"] else more).format(rule)]
    others = [name for name, of_rule in found.items() if of_rule["is_noise"] and name != rule]
    if others:
        lines.append(f"Inside their noise are the differences from equal weights under {', '.join(others)}.")
    return lines


def _about_shrinkage(results: Mapping[str, Any]) -> list[str]:
    if not results.get("shrink"):
        return []
    lines = [
        "The weights are shrunk: contributions and difficulties are pulled to their mean, each by its own "
        "reliability. C is shown as measured, its means and the difficulty as pulled."
    ]
    return [*lines, PULLED] if seeds.intervals(results) else lines


def _judged(results: Mapping[str, Any]) -> Mapping[str, Any]:
    weights: Mapping[str, Any] = seeds.intervals(results).get("weights") or {}
    return weights


def _about_denominators(results: Mapping[str, Any]) -> list[str]:
    lost = [task for task in lost_columns(results) if task not in without_value(results)]
    if not lost:
        return []
    count, total = len(lost), len(results["tasks"])
    (entry,) = results["by_seed"].values()
    gains = dict(zip(results["tasks"], entry["gains"], strict=True))
    where = {
        (True,): "is not above 0",
        (False,): "lies inside its noise",
    }.get(tuple({gains[task] <= 0 for task in lost}), "is not above 0 or lies inside its noise")
    return [
        f"The denominator of C {where} for {count} of {total} tasks: {named(lost)}. Full data of their own "
        "brought them too little to divide by, so what others contribute to them is not known."
    ]


def _about_intervals(results: Mapping[str, Any]) -> list[str]:
    if not seeds.intervals(results):
        return [
            f"There are no intervals, as {results['no_intervals']}: nothing here tells a difference between "
            "weights from noise."
        ]
    lines = []
    if seeds.intervals(results).get("n_seeds") == 1:
        lines.append(ONE_SEED)
    lines += few_seeds(seeds.intervals(results).get("n_seeds", 1))
    lines += few_items(results.get("n_items") or {}) + scored_alike(
        results["tasks"], seeds.intervals(results)
    )
    if seeds.intervals(results).get("equal_is_one_training"):
        lines.append(ONE_EQUAL)
    without = [rule for rule, of_rule in _judged(results).items() if of_rule is None]
    of_C = [rule for rule in without if rule in USE_ONE2ALL + USE_ALL2ONE]
    lost, valueless = lost_columns(results), without_value(results)
    if lost.keys() - valueless and of_C:
        lines.append(f"Weights that need such a column have no intervals: {', '.join(of_C)}.")
    lines += [f"Weights that need the contribution have no intervals: {lost[task]}." for task in valueless]
    for reason in seeds.intervals(results).get("undefined", {}).values():
        lines.append(f"Weights that need the difficulty have no intervals: {reason}.")
    if results["precise"]:
        lines.append("The noise of the precise difficulty is not estimated; what needs it has no intervals.")
    return lines
