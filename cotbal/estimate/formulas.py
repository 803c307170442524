"""Eq. 3-11 on tensors of any leading shape: one statement of each, for a table and for its resamples."""

import math

import torch
from torch import Tensor


def contribution_of(mini: Tensor, probes: Tensor) -> Tensor:
    """C (..., N, N) with diagonal 1 (Eq. 3), from V(mini) (..., N) and V(i+mini) (..., N, N)."""
    mini = mini.unsqueeze(-2)
    own = probes.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    return _with_diagonal((probes - mini) / (own - mini), 1.0)


def one2all_of(C: Tensor) -> Tensor:
    """C_one2all (..., N): the mean of each row without its diagonal and without NaN (Eq. 4)."""
    return _filled(_with_diagonal(C, math.nan).nanmean(dim=-1))


def all2one_of(C: Tensor) -> Tensor:
    """C_all2one (..., N): the mean of each column without its diagonal and without NaN (Eq. 6)."""
    return _filled(_with_diagonal(C, math.nan).nanmean(dim=-2))


def difficulty_of(part: Tensor, whole: Tensor) -> Tensor:
    """D (..., N) from the scores of the mini subset and of the full set (Eq. 9); NaN where that is <= 0."""
    return 1.0 - part / whole.where(whole > 0, math.nan)


def weights_of(
    rule: str,
    one2all: Tensor | None,
    all2one: Tensor | None,
    difficulty: Tensor | None,
    *,
    temperature: float,
    alpha: float,
) -> Tensor:
    """The weights (..., N) of a rule (Eq. 5, 7, 8, 10, 11), each sum N; a signal not needed may be None."""

    def softmax(signal: Tensor | None, sign: float) -> Tensor:
        assert signal is not None
        return signal.shape[-1] * torch.softmax(sign * signal / temperature, dim=-1)

    if rule == "one2all":
        return softmax(one2all, 1.0)
    if rule == "all2one":
        return softmax(all2one, -1.0)
    if rule == "difficulty":
        return softmax(difficulty, 1.0)
    balanced = (softmax(one2all, 1.0) + softmax(all2one, -1.0)) / 2
    return balanced if rule == "contribution" else alpha * balanced + (1 - alpha) * softmax(difficulty, 1.0)


def _with_diagonal(C: Tensor, value: float) -> Tensor:
    eye = torch.eye(C.shape[-1], dtype=torch.bool, device=C.device)
    return C.masked_fill(eye, value)


def _filled(means: Tensor) -> Tensor:
    """Where no mean is known, that of the known ones."""
    return means.where(~means.isnan(), means.nanmean(dim=-1, keepdim=True))
