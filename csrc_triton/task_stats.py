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
    # A (R, N) mask and sums along it: scattered additions on a GPU come in any order.
    tasks = torch.arange(rows.n_tasks, device=values.device)
    in_task = (rows.task_ids[:, None] == tasks) & is_counted[:, None]
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
