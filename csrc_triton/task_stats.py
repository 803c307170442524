"""Sums of one call: the loss and, per task, losses, weights, rows and correct rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton.rows import Rows


@dataclass(frozen=True)
class RowSums:
    """What a call sums over its rows; N is 0 without tasks.

    Attributes:
        loss: 0-d, sum_r w_r c_r, over the divisor where there is one; 0 where that is 0.
        loss_sum: (N,) sum of token_weights_r c_r.
        mass_sum: (N,) sum of token_weights_r cw[y_r].
        token_count: (N,) int64, the rows that were read.
        correct_count: (N,) int64, how many of them are top-1 correct.
    """

    loss: Tensor
    loss_sum: Tensor
    mass_sum: Tensor
    token_count: Tensor
    correct_count: Tensor


def weighted_losses(losses: Tensor, weights: Tensor) -> Tensor:
    """w_r c_r (R,), exactly 0 where w_r is, whatever the loss."""
    return torch.where(weights == 0, torch.zeros_like(losses), weights * losses)


def per_task(values: Tensor, rows: Rows, is_counted: Tensor) -> Tensor:
    """The sum of `values` (R,) over the counted rows of each task: (N,); the same bits every time."""
    if rows.task_ids is None:
        return values.new_zeros(0)
    sums = _added_in_order if values.device.type == "cpu" else _added_by_mask
    return sums(values, rows.task_ids, is_counted, rows.n_tasks)


def _added_in_order(values: Tensor, task_ids: Tensor, is_counted: Tensor, n_tasks: int) -> Tensor:
    """On a CPU, where thousands of tasks take no longer than a few."""
    dtype = torch.float64 if values.is_floating_point() else values.dtype
    terms = torch.where(is_counted, values, torch.zeros_like(values)).to(dtype)
    return terms.new_zeros(n_tasks).index_add_(0, task_ids * is_counted, terms).to(values.dtype)


def _added_by_mask(values: Tensor, task_ids: Tensor, is_counted: Tensor, n_tasks: int) -> Tensor:
    """By a (R, N) mask and sums along it: scattered additions on a GPU come in any order."""
    in_task = (task_ids[:, None] == torch.arange(n_tasks, device=values.device)) & is_counted[:, None]
    return torch.where(in_task, values[:, None], torch.zeros_like(values[:, None])).sum(0)


def sum_rows(losses: Tensor, correct: Tensor, read: Tensor, rows: Rows, divisor: Tensor | None) -> RowSums:
    """Returns the sums of c (R,) and correct (R,) bool over the rows that were `read` (R,) bool.

    Args:
        losses: c (R,).
        correct: (R,) bool.
        read: (R,) bool.
        rows: the rows.
        divisor: 0-d, what the sum of w_r c_r is divided by, or None.
    """
    token_mass, loss = rows.token_mass, weighted_losses(losses, rows.weights).sum()
    if divisor is not None:
        loss = torch.where(divisor > 0, loss / divisor, torch.zeros_like(loss))
    return RowSums(
        loss=loss,
        loss_sum=per_task(token_mass * losses, rows, read),
        mass_sum=per_task(rows.times_class_weight(token_mass), rows, read),
        token_count=per_task(torch.ones_like(rows.labels), rows, read),
        correct_count=per_task(correct.to(torch.int64), rows, read),
    )
