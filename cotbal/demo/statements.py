"""Sentences about the demo's results that say no more than the seeds can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.report.seeds import Estimate, unidentified

# 97.5 % points of Student's t for 1, 2, ... degrees of freedom: the mean of a few seeds is within so many
# standard errors in 95 of 100 cases. Two standard errors would be far too few for three seeds.
STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
MEASURES = {"delta_i": "ΔI%", "delta_e": "ΔE%"}


def noise_errors(seeds: int) -> float:
    """The number of standard errors within which a mean over `seeds` >= 2 seeds is called noise."""
    return STUDENT_T[min(seeds - 1, len(STUDENT_T)) - 1]


def verdict(method: str, differences: Mapping[str, Estimate], seeds: int) -> str:
    """One sentence about a method against EW.

    Args:
        method: its name.
        differences: mean and standard error over the seeds of the paired difference, for each of `MEASURES`.
        seeds: number of seeds.
    """
    if any(difference.mean is None for difference in differences.values()):
        return f"{method} against EW: not defined, as a single-task model scored 0."
    if seeds == 1:
        figures = ", ".join(f"{sign} {differences[key].mean:+.2f}" for key, sign in MEASURES.items())
        return f"{method} against EW: {figures}. One seed cannot tell this from noise."
    parts = (f"{sign} {_judged(differences[key], seeds)}" for key, sign in MEASURES.items())
    return f"{method} against EW: {'; '.join(parts)}."


def _judged(difference: Estimate, seeds: int) -> str:
    mean, error = difference.mean, difference.stderr
    assert mean is not None
    assert error is not None
    inside = abs(mean) <= noise_errors(seeds) * error
    return f"{mean:+.2f} ± {error:.2f}, {'inside' if inside else 'beyond'} the seed noise"


def statements(results: Mapping[str, Any]) -> list[str]:
    """What a reader of the results should know, as plain sentences.

    Args:
        results: all of results.json but its "statements" and "run".
    """
    verdicts = [entry["verdict"] for entry in results["summary"]["against_EW"].values()]
    return [
        *verdicts,
        _about_noise(len(results["seeds"]), len(verdicts)),
        *_about_unidentified(results),
        "ΔI% is better when higher, ΔE% when lower. Profiles train for different lengths: do not compare"
        " their values.",
    ]


def _about_noise(seeds: int, verdicts: int) -> str:
    if seeds == 1:
        return (
            "Single seeds of this demo differ by several points either way; `cotbal demo --full` runs three."
        )
    return (
        f"Inside the seed noise: within {noise_errors(seeds):g} standard errors of the paired differences"
        f" (95 % for {seeds} seeds). Of {len(MEASURES) * verdicts} such comparisons, one in twenty is beyond"
        " it by chance."
    )


def _about_unidentified(results: Mapping[str, Any]) -> list[str]:
    seeds = len(results["seeds"])
    return [
        f"What other tasks contribute to {task} was not identified"
        + ("" if seeds == 1 else f" in {count} of {seeds} seeds")
        + ": its own probe gained too little over the mini run, so its column of C is left out of the means."
        for task, count in unidentified(results).items()
    ]
