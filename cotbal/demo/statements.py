"""Sentences about the demo's results that say no more than the seeds can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cotbal.report.seeds import Estimate, unidentified

# A difference counts as seen when it is beyond so many standard errors of the paired differences.
NOISE_ERRORS = 2.0
BOTH = (("delta_i", "ΔI%", "higher is better"), ("delta_e", "ΔE%", "lower is better"))


def verdict(method: str, differences: Mapping[str, Estimate], seeds: int) -> str:
    """One sentence about a method against EW.

    Args:
        method: its name.
        differences: mean and standard error over seeds of the paired difference, for "delta_i" and "delta_e".
        seeds: number of seeds.
    """
    if any(difference.mean is None for difference in differences.values()):
        return f"{method} against EW: not defined, as a single-task model scored 0."
    if seeds == 1:
        figures = ", ".join(f"{sign} {differences[key].mean:+.2f}" for key, sign, _ in BOTH)
        return f"{method} against EW with one seed: {figures}; one seed cannot tell this from noise."
    parts = [f"{sign} {_judged(differences[key])} ({better})" for key, sign, better in BOTH]
    return f"{method} against EW over {seeds} seeds: {'; '.join(parts)}."


def _judged(difference: Estimate) -> str:
    mean, error = difference.mean, difference.stderr
    assert mean is not None
    assert error is not None
    inside = abs(mean) <= NOISE_ERRORS * error
    place = "inside the seed noise" if inside else f"beyond {NOISE_ERRORS:.0f} standard errors"
    return f"{mean:+.2f} ± {error:.2f}, {place}"


def statements(results: Mapping[str, Any]) -> list[str]:
    """What a reader of the results should know, as plain sentences.

    Args:
        results: all of results.json but its "statements" and "run".
    """
    count = len(results["seeds"])
    sentences = [entry["verdict"] for entry in results["summary"]["against_EW"].values()]
    if count == 1:
        sentences.append(
            "Single seeds of this demo differ by several points either way; `cotbal demo --full` runs three."
        )
    else:
        sentences.append(
            f"Standard errors from {count} seeds are rough themselves; a difference within"
            f" {NOISE_ERRORS:.0f} of them is called inside the seed noise."
        )
    for task, times in unidentified(results).items():
        where = "" if count == 1 else f" in {times} of {count} seeds"
        sentences.append(
            f"What other tasks contribute to {task} was not identified{where}: its own probe gained too"
            " little over the mini run, so its column of C is left out of the means."
        )
    sentences.append("Profiles train for different lengths: do not compare ΔI% or ΔE% between them.")
    return sentences
