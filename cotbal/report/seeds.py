"""What the seeds of a results dictionary say together: means, standard errors and their spelling."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

Results = Mapping[str, Any]

RULES = {
    "cotbal": "CoTBal",
    "contribution": "contribution",
    "one2all": "one2all",
    "all2one": "all2one",
    "difficulty": "difficulty",
    "equal": "equal",
}
ABSENT = "n/a"


class Estimate(NamedTuple):
    """A mean over seeds with its standard error; None where there is no value, or only one for the error."""

    mean: float | None
    stderr: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval, None where there is none."""
        return None


class InInterval(Estimate):
    """A value with its confidence interval instead of a standard error."""

    def __new__(cls, mean: float | None, low: float, high: float) -> InInterval:
        """Return `mean` in [`low`, `high`]."""
        value = super().__new__(cls, mean, None)
        value._ends = (low, high)
        return value

    _ends: tuple[float, float]

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval."""
        return self._ends


class TestRow(NamedTuple):
    """One metric of one task on the test split, by method."""

    task: str
    metric: str
    by_method: dict[str, Estimate]


def check_results(results: Results) -> None:
    """Raise ValueError unless `results` has schema version 1 and at least one seed."""
    version = results.get("schema_version")
    if version != 1:
        raise ValueError(
            f"results: expected schema_version 1, got {version!r}; write the results anew with this version"
        )
    missing = [str(seed) for seed in results["seeds"] if str(seed) not in results["by_seed"]]
    if missing or not results["seeds"]:
        raise ValueError(
            f"results: expected one entry in by_seed for each of seeds, missing {missing or 'all'}"
        )


def each_seed(results: Results) -> list[Mapping[str, Any]]:
    """Return the entries of `by_seed` in the order of `seeds`."""
    return [results["by_seed"][str(seed)] for seed in results["seeds"]]


def estimate(values: Iterable[float | None]) -> Estimate:
    """Return mean and standard error (sample deviation / sqrt n) of the values that are not None."""
    present = [value for value in values if value is not None]
    if not present:
        return Estimate(None, None)
    if len(present) == 1:
        return Estimate(present[0], None)
    return Estimate(statistics.fmean(present), statistics.stdev(present) / math.sqrt(len(present)))


def vector(results: Results, key: str) -> list[Estimate]:
    """Return the mean over seeds of a per-task list: `one2all`, `all2one` or `difficulty`."""
    values = [estimate(values) for values in zip(*(seed[key] for seed in each_seed(results)), strict=True)]
    return within(values, intervals(results).get(key))


def contribution(results: Results) -> list[list[Estimate]]:
    """Return the mean over seeds of C (Eq. 3); a cell's mean is None where no seed identified it."""
    rows = zip(*(seed["contribution"] for seed in each_seed(results)), strict=True)
    means = [[estimate(cells) for cells in zip(*row, strict=True)] for row in rows]
    ends = intervals(results).get("contribution") or [None] * len(means)
    return [within(row, of_row) for row, of_row in zip(means, ends, strict=True)]


def intervals(results: Results) -> Mapping[str, Any]:
    """Return the intervals in the form of `Uncertainty.to_json`; empty where there are none."""
    return results.get("intervals") or {}


def within(values: list[Estimate], ends: Sequence[Sequence[float] | None] | None) -> list[Estimate]:
    """Return the values with their [low, high] where both are known."""
    if ends is None:
        return values
    pairs = zip(values, ends, strict=True)
    return [v if v.mean is None or pair is None else InInterval(v.mean, *pair) for v, pair in pairs]


def unidentified(results: Results) -> dict[str, int]:
    """Return in how many seeds each task's column of C was not identified, tasks without any left out."""
    counts = {
        task: sum(task in seed["unidentified"] for seed in each_seed(results)) for task in results["tasks"]
    }
    return {task: count for task, count in counts.items() if count}


def unidentified_note(results: Results) -> str:
    """Return one sentence naming the unidentified tasks, empty if there are none."""
    total = len(results["seeds"])
    counts = unidentified(results)
    names = [
        task if count == total else f"{task} ({count} of {total} seeds)" for task, count in counts.items()
    ]
    return f"Not identified (gain too small to divide by): {', '.join(names)}." if names else ""


def imputed_note(results: Results) -> str:
    """Return what stands in the mean columns for the unidentified tasks, empty if there are none."""
    note = unidentified_note(results)
    if note and results.get("shrink"):
        return f"{note} Their cells of C are pulled to the mean of all."
    return f"{note} What they get from the others is set to the mean of the identified tasks." if note else ""


def validation(results: Results) -> dict[str, list[Estimate]]:
    """Return the mean validation score of each run (`mini`, then one per probe) on each weighted task."""
    tasks, seeds = results["tasks"], [seed["scores"] for seed in each_seed(results)]
    table = {"mini": [estimate(seed["mini"][task] for seed in seeds) for task in tasks]}
    for trained in tasks:
        table[trained] = [estimate(seed["probes"][trained][task] for seed in seeds) for task in tasks]
    return table


def rules(results: Results) -> list[str]:
    """Return the weighting rules present in every seed, in the paper's order."""
    return [rule for rule in RULES if all(rule in seed["weights"] for seed in each_seed(results))]


def weights(results: Results, rule: str) -> dict[str, Estimate]:
    """Return the mean weight of each weighted task under `rule`."""
    tasks = results["tasks"]
    values = [estimate(seed["weights"][rule][task] for seed in each_seed(results)) for task in tasks]
    of_rule = intervals(results).get("weights", {}).get(rule)
    return dict(zip(tasks, within(values, of_rule and of_rule["intervals"]), strict=True))


def methods(results: Results) -> list[str]:
    """Return the trained methods in the order of the first seed; none where nothing was tested."""
    return list(each_seed(results)[0].get("test", {}))


def improvement(results: Results, method: str) -> dict[str, Estimate]:
    """Return the mean I of each weighted task against STL (Eq. 12, a fraction)."""
    return {
        task: estimate(seed["improvement"][method][task] for seed in each_seed(results))
        for task in results["tasks"]
    }


def test_rows(results: Results) -> list[TestRow]:
    """Return the test scores, one row for each metric of each task that a method was tested on."""
    first = next(iter(each_seed(results)))["test"]
    measured = {task: list(metrics) for tasks in first.values() for task, metrics in tasks.items()}
    order = [*results["tasks"], *(task for task in measured if task not in results["tasks"])]
    return [
        TestRow(task, metric, {method: _score(results, method, task, metric) for method in first})
        for task in order
        for metric in measured[task]
    ]


def _score(results: Results, method: str, task: str, metric: str) -> Estimate:
    return estimate(seed["test"][method].get(task, {}).get(metric) for seed in each_seed(results))


def shortened(names: Sequence[str], limit: int = 24) -> list[str]:
    """Return the names, the middle left out of those longer than `limit`; what tells two apart stays."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(_without_middle(name, limit), []).append(name)
    labels: dict[str, str] = {}
    for label, alike in groups.items():
        labels |= {alike[0]: label} if len(alike) == 1 else _told_apart(alike, limit)
    if len(set(labels.values())) < len(labels):
        return shortened(names, limit + limit // 3)
    return [labels[name] for name in names]


def _told_apart(names: Sequence[str], limit: int) -> dict[str, str]:
    """Labels of names that begin and end alike: the beginning, and the words that differ."""
    head, tail = (
        # By characters, and back to the beginning of a word.
        len(re.sub(r"(?<=[\W_])[^\W_]+$", "", commonprefix(each)))  # noqa: RUF071
        for each in (names, [name[::-1] for name in names])
    )
    words = {name: _without_middle(name[head : max(head, len(name) - tail)], limit) for name in names}
    return {name: f"{name[: min(head, max(0, limit - 1 - len(own)))]}…{own}" for name, own in words.items()}


def _without_middle(name: str, limit: int) -> str:
    head = (limit - 1) // 2
    return name if len(name) <= limit else f"{name[:head]}…{name[-(limit - 1 - head) :]}"


def spell(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Return `value` with `digits` decimals (never "-0.00"), with a sign if asked; "n/a" for None."""
    if value is None:
        return ABSENT
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if sign else f"{rounded:.{digits}f}"


def spell_estimate(value: Estimate, digits: int = 3, *, sign: bool = False) -> str:
    """Return the mean, with "+- error" where there is a standard error, on a second line any interval."""
    text = spell(value.mean, digits, sign=sign)
    if value.interval is not None:
        low, high = value.interval
        return f"{text}\n[{spell(low, 2)}, {spell(high, 2)}]"
    return text if value.stderr is None else f"{text} ± {spell(value.stderr, digits)}"


def seeds_note(results: Results) -> str:
    """Return which seeds the numbers are of: "seed 0" or "mean of 3 seeds", or what the results say."""
    if "source" in results:
        return str(results["source"])
    count = len(results["seeds"])
    return f"seed {results['seeds'][0]}" if count == 1 else f"mean of {count} seeds"


def noise_note(results: Results) -> str:
    """Return one sentence on the seed noise that the results can or cannot show."""
    if len(results["seeds"]) > 1:
        return f"± is the standard error over {len(results['seeds'])} seeds."
    return "One seed: the noise between seeds is not known."


def summary(results: Results, key: str, method: str, *, against_equal: bool = False) -> Estimate:
    """Return `delta_i` or `delta_e` of a method in percent, or its paired difference from EW."""
    table = results["summary"]["against_EW"].get(method, {}) if against_equal else results["summary"][key]
    entry = table.get(key if against_equal else method)
    return Estimate(entry["mean"], entry["stderr"]) if entry else Estimate(None, None)


def spell_difference(results: Results, key: str, method: str) -> str:
    """Return the paired difference of a method from EW in percent, empty where there is none."""
    value = summary(results, key, method, against_equal=True)
    return "" if value.mean is None else spell_estimate(value, 2, sign=True)


def probe_data(results: Results) -> str:
    """Return what a probe trains on of its own task: all of it, or a quarter in the mode cheap.

    A table with the row equal and of no known mode does not say how much it is.
    """
    if results.get("is_cheap"):
        return "a quarter of its own data"
    return "own data" if results.get("has_equal") else "own data in full"


def mini_data(results: Results) -> str:
    """Return whose score D divides: the mini run's, in the precise difficulty that of its subset alone."""
    return "mini subset alone" if results.get("precise") else "mini run"


def full_data(results: Results) -> str:
    """Return what D divides it by: the task's probe, its full set alone, or the model of equal weights."""
    if results.get("precise"):
        return "own data in full, alone"
    return "all data, equal weights" if results.get("has_equal") else "own data in full"


def turned_note(results: Results) -> str:
    """Return one sentence on the tasks where lower is better, empty if there are none."""
    turned = ", ".join(f"{task} ({how})" for task, how in results.get("transforms", {}).items())
    return (
        f"Lower is better, and C, D and the difference are of the turned scores: {turned}." if turned else ""
    )
