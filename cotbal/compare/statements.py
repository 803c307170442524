"""What a reader of a comparison should know, as plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.estimate.few_items import alike, few_items
from cotbal.estimate.few_seeds import few_seeds
from cotbal.estimate.score_csv import two_scales

SIGNS = {"delta_i": "ΔI", "delta_e": "ΔE"}


def statements(comparison: Mapping[str, Any]) -> list[str]:
    """The sentences, the most important first.

    Args:
        comparison: all of a comparison but its "statements".
    """
    return [
        *_about_scales(comparison),
        *_about_sources(comparison),
        *_about_baselines(comparison),
        *_about_differences(comparison),
        *_about_noise(comparison),
        *_about_rows(comparison),
    ]


def _about_scales(comparison: Mapping[str, Any]) -> list[str]:
    names = [column["name"] for column in comparison["columns"]]
    rows = {row["name"]: [row["scores"][name] for name in names] for row in comparison["methods"]}
    return [f"Perhaps two scales: {doubt}." for doubt in two_scales(names, rows)]


def _about_sources(comparison: Mapping[str, Any]) -> list[str]:
    tasks = dict.fromkeys(c["task"] for c in comparison["columns"] if c["source"] == "validation")
    if not tasks:
        return []
    return [
        f"No test scores: {', '.join(tasks)} {'have' if len(tasks) > 1 else 'has'} no test file, so these "
        "are scores on the validation files, which the weights were estimated from."
    ]


def _about_baselines(comparison: Mapping[str, Any]) -> list[str]:
    """That a baseline of one of several tables is not that of the others."""
    base = comparison["baseline"] or ""
    kind, bracket, _ = base.partition(" (")
    others = [row["name"] for row in comparison["methods"] if row["name"].startswith(f"{kind} (")]
    if not bracket or others == [base]:
        return []
    others.remove(base)
    return [
        f"Every method is measured against {base}, those of the tables of {', '.join(others)} as well: "
        "against the baseline of its own table a method's ΔI and ΔE may be others."
    ]


def _about_differences(comparison: Mapping[str, Any]) -> list[str]:
    """Which methods differ from the one that they are compared with by more than the noise."""
    against = comparison["reference"]
    others = (against, comparison["baseline"])
    rows = [row for row in comparison["methods"] if row["name"] not in others and not row["same_as"]]
    if against is None or comparison["level"] is None or not rows:
        return []
    # Items drawn again say nothing of another training.
    alone = ", for these trainings alone" if len(comparison["seeds"]) == 1 else ""
    lines = [line for key in SIGNS for line in _difference(rows, key, f"{against}{alone}")]
    count = sum(row[f"{key}_difference_interval"] is not None for row in rows for key in SIGNS)
    if count > 2:
        share = "more than one in twenty" if few_seeds(len(comparison["seeds"])) else "one in twenty"
        lines[-1] += f" Of {count} such comparisons {share} is beyond the noise by chance."
    return lines


def _difference(rows: list[Mapping[str, Any]], key: str, against: str) -> list[str]:
    named: dict[str, list[str]] = {"better": [], "worse": [], "inside": []}
    above, below = ("better", "worse") if key == "delta_i" else ("worse", "better")
    for row in rows:
        ends = row[f"{key}_difference_interval"]
        if ends is not None:
            side = above if ends[0] > 0 else below if ends[1] < 0 else "inside"
            named[side].append(row["name"])
    parts = [f"{side} for {', '.join(named[side])}" for side in ("better", "worse") if named[side]]
    if named["inside"]:
        parts.append(f"not told apart for {', '.join(named['inside'])}")
    return [f"{SIGNS[key]} against {against}: {'; '.join(parts)}."] if parts else []


def _about_noise(comparison: Mapping[str, Any]) -> list[str]:
    if comparison["no_measures"]:
        return [f"{comparison['no_measures']}."]
    if comparison["no_intervals"]:
        return [
            f"There are no intervals, as {comparison['no_intervals']}: nothing here tells a difference from "
            "noise."
        ]
    lines = [
        "ΔI is better when higher, ΔE when lower; noise only ever adds to ΔE, for which its intervals "
        "reach further down, and those of its differences further to both sides."
    ]
    if comparison["baseline"] and all(row["delta_i_interval"] is None for row in comparison["methods"]):
        lines = [
            f"ΔI and ΔE have no intervals: a score of {comparison['baseline']}, by which they are divided, "
            "is not above 0 in some draws; more test items help."
        ]
    if len(comparison["seeds"]) == 1:
        lines.append(
            "One seed: the intervals are of the test items alone. Another training of the same method may "
            "differ by more; several seeds tell."
        )
    lines += few_seeds(len(comparison["seeds"])) + few_items(comparison.get("n_items") or {})
    return lines + _about_items(comparison)


def _about_items(comparison: Mapping[str, Any]) -> list[str]:
    """The scores whose items are all alike, as where everything is wrong: no draw of them differs."""
    return alike(
        {
            f"{row['name']} on {column}": ends
            for row in comparison["methods"]
            for column, ends in (row.get("score_intervals") or {}).items()
        }
    )


def _about_rows(comparison: Mapping[str, Any]) -> list[str]:
    same: dict[str, list[str]] = {}
    for row in comparison["methods"]:
        if row["same_as"]:
            same.setdefault(row["same_as"], [row["same_as"]]).append(row["name"])
    lines = [f"The same model: {', '.join(names)}." for names in same.values()]
    lines += [
        f"{name} is one training under all {len(comparison['seeds'])} seeds: another of it may differ by "
        "more than its intervals and differences say."
        for name in comparison.get("one_training", [])
    ]
    if comparison["missing"]:
        lines.append(f"Not finished, and so left out: {', '.join(comparison['missing'])}.")
    return lines
