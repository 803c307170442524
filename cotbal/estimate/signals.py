"""Contribution and difficulty of the tasks, from their validation scores (Eq. 3, 4, 6, 9)."""

import math

import torch
from torch import Tensor

from cotbal.estimate.formulas import all2one_of, contribution_of, difficulty_of, one2all_of
from cotbal.estimate.scores import Scores
from cotbal.estimate.strata import balanced, parts, variance_of_mean
from cotbal.estimate.transforms import oriented_items, remedy

MIN_STANDARD_ERRORS = 3.0
ON_UNIDENTIFIED = ("raise", "drop")
# A difference of equal scores that went through a few roundings is zero, not 1e-17.
_ROUNDING = 16 * torch.finfo(torch.float64).eps


def contribution(scores: Scores, *, on_unidentified: str = "raise") -> Tensor:
    """Return C, (N, N) float64 with diagonal 1: C_ij is what task i gives to task j (Eq. 3). Not clipped.

        C_ij = (V_j(i+mini) - V_j(mini)) / (V_j(j+mini) - V_j(mini))

    Args:
        scores: the score table.
        on_unidentified: what becomes of a column j whose denominator is <= 0, or below 3 of its standard
            errors where the items are known: "raise", or "drop", which makes its C_ij NaN for i != j.

    Raises:
        ValueError: a column is not identified and `on_unidentified` is "raise".

    Example:
        >>> contribution(Scores(["a", "b"], mini=[0, 0], probes=[[4, 1], [1, 2]])).tolist()
        [[1.0, 0.5], [0.25, 1.0]]
    """
    if on_unidentified not in ON_UNIDENTIFIED:
        raise ValueError(f"on_unidentified: expected 'raise' or 'drop', got {on_unidentified!r}")
    reasons = unidentified(scores)
    if reasons and on_unidentified == "raise":
        raise ValueError(
            f"scores: {'; '.join(reasons.values())}. The contribution to "
            f"{'this task' if len(reasons) == 1 else 'these tasks'} is not identified (Eq. 3): "
            "name a transform where lower is better, validate on more items, use larger sets, or leave it "
            "out: on_unidentified='drop', in a YAML `on_unidentified: drop`, for `cotbal weights` "
            "--on-unidentified drop; no training is done again for that"
        )
    table = contribution_of(scores.oriented("mini"), scores.oriented("probes"))
    for place, task in enumerate(scores.tasks):
        if task in reasons:
            table[:, place] = math.nan
    return table.fill_diagonal_(1.0)


def unidentified(scores: Scores) -> dict[str, str]:
    """Return the tasks whose column of C is not identified, each with the reason in words."""
    reasons = {}
    for task, denominator in zip(scores.tasks, _denominators(scores).tolist(), strict=True):
        if denominator <= 0:
            reasons[task] = f"V({task} + mini) - V(mini) of task {task!r} is {denominator:.4g}, expected > 0"
        elif (z := _standard_errors(scores, task)) is not None and z < MIN_STANDARD_ERRORS:
            reasons[task] = (
                f"V({task} + mini) - V(mini) of task {task!r} is {denominator:.4g}, only {z:.2f} of its "
                f"standard errors, expected at least {MIN_STANDARD_ERRORS:g}"
            )
    return reasons


def one2all(C: Tensor) -> Tensor:
    """Return C_one2all (N,): the mean of row i over j != i (Eq. 4), over identified columns.

    A task whose every other column is unidentified gets the mean of the remaining tasks.

    Raises:
        ValueError: fewer than two tasks, or no identified column.
    """
    return one2all_of(_checked(C))


def all2one(C: Tensor) -> Tensor:
    """Return C_all2one (N,): the mean of column i over the other rows (Eq. 6).

    An unidentified column gets the mean of the identified ones.

    Raises:
        ValueError: fewer than two tasks, or no identified column.
    """
    return all2one_of(_checked(C))


def difficulty(scores: Scores, *, precise: bool = False) -> Tensor:
    """Return D (N,) float64, the share of a task's score that its mini subset does not reach (Eq. 9).

        D_i = 1 - V_i(mini) / V_i(i+mini),     precise: D_i = 1 - V_i(mini_i alone) / V_i(full_i alone)

    Where the scores have those of an equally weighted model, they take the place of V_i(i+mini).

    Raises:
        ValueError: a score <= 0, where the ratio means nothing, or `precise` without the single-task runs.

    Example:
        >>> difficulty(Scores(["a", "b"], mini=[1, 3], probes=[[4, 3], [2, 4]])).tolist()
        [0.75, 0.25]
    """
    names = (
        ("single_mini", "single_full") if precise else ("mini", "probes" if scores.equal is None else "equal")
    )
    part, whole = (_own(scores.oriented(name)) for name in names)
    measured = (_own(getattr(scores, name)).tolist() for name in names)
    for task, mini, full, *as_measured in zip(
        scores.tasks, part.tolist(), whole.tolist(), *measured, strict=True
    ):
        if mini <= 0 or full <= 0:
            raise ValueError(
                f"scores: task {task!r}: the difficulty (Eq. 9) needs scores > 0, got {mini:g} with the mini "
                f"subset and {full:g} with the full set; {remedy(task, scores.transforms, *as_measured)}"
            )
    return difficulty_of(part, whole)


def _own(scores: Tensor) -> Tensor:
    """(N,) scores, of the probes (N, N) those on their own task."""
    return scores.diagonal() if scores.dim() == 2 else scores


def _denominators(scores: Scores) -> Tensor:
    full, mini = scores.oriented("probes").diagonal(), scores.oriented("mini")
    gap = full - mini
    return gap.where(gap.abs() > _ROUNDING * torch.maximum(full.abs(), mini.abs()), torch.zeros_like(gap))


def _standard_errors(scores: Scores, task: str) -> float | None:
    """Return the gain of a task's own probe over the mini run in standard errors of the paired items."""
    full, mini = scores.items.get(task, {}).get(task), scores.items.get("mini", {}).get(task)
    if full is None or mini is None or len(full) < 2:
        return None
    strata = scores.strata.get(task)
    full, mini = (oriented_items(balanced(row, strata), task, scores.transforms) for row in (full, mini))
    found = parts(full - mini, task, scores.clusters.get(task), strata)
    if min(len(part.sizes) for part in found) < 2:
        return None
    mean, error = (full - mini).mean().item(), variance_of_mean(found).sqrt().item()
    if error == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / error


def _checked(C: Tensor) -> Tensor:
    if C.dim() != 2 or C.shape[0] != C.shape[1] or len(C) < 2:
        raise ValueError(
            f"contribution: expected a square table of at least 2 tasks, got shape {tuple(C.shape)}"
        )
    if bool(C.isnan().sum() == C.numel() - len(C)):
        raise ValueError(
            "contribution: no task's column is identified, so it says nothing; use rule='difficulty' or "
            "'equal', or scores of larger sets"
        )
    return C
