"""The specification of the GTW loss in plain torch: one statement of each formula, the oracle of every test.

Nothing here is fast or shared with the implementations that it judges. Autograd differentiates it.
"""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: what losses, weights and sums are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def row_weights(
    labels: Tensor,
    task_ids: Tensor | None,
    task_weights: Tensor | None,
    token_weights: Tensor | None,
    ignore_index: int,
    dtype: torch.dtype,
) -> Tensor:
    """w_r = token_weights_r * task_weights[task_ids_r] at valid rows, 0 at ignored ones: (R,) in `dtype`."""
    valid = labels != ignore_index
    weights = torch.ones(labels.shape, dtype=dtype, device=labels.device)
    if task_weights is not None and task_ids is not None:
        weights = weights * task_weights.to(dtype)[task_ids.where(valid, torch.zeros_like(task_ids))]
    if token_weights is not None:
        weights = weights * token_weights.to(dtype)
    return torch.where(valid, weights, torch.zeros_like(weights))


def row_losses(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """c_r = -log softmax(z_r)[y_r] where w_r is not 0, exactly 0 elsewhere: (R,), accumulation dtype."""
    dtype = accumulation_dtype(logits.dtype)
    read = weights != 0
    z = logits[read].to(dtype)
    losses = -torch.log_softmax(z, dim=1).gather(1, labels[read][:, None])[:, 0]
    return torch.zeros(labels.shape, dtype=dtype, device=logits.device).masked_scatter(read, losses)


def top1_correct(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Whether the label is the lowest index of the largest logit, at the rows that are read: (R,) bool."""
    read = weights != 0
    z = logits[read]
    beaten_by = torch.arange(z.shape[1], device=z.device) < labels[read][:, None]
    label_logits = z.gather(1, labels[read][:, None])
    beaten = torch.where(beaten_by, z >= label_logits, z > label_logits).any(dim=1) | z.isnan().any(dim=1)
    return torch.zeros_like(read).masked_scatter(read, ~beaten)


def reduce_losses(losses: Tensor, weights: Tensor, denominator: Tensor | None, reduction: str) -> Tensor:
    """Eq. 2: sum_r w_r c_r / sum_r w_r; with "sum" the numerator, with "none" each w_r c_r.

    A `denominator` (0-d) takes the place of sum_r w_r under "weighted_mean". Where it is 0 so is the loss.
    """
    weighted = torch.where(weights != 0, weights * losses, torch.zeros_like(losses))
    if reduction == "none":
        return weighted
    if reduction == "sum":
        return weighted.sum()
    divisor = weights.sum() if denominator is None else denominator.to(weights.dtype)
    return weighted.sum() / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def task_sums(values: Tensor, task_ids: Tensor, read: Tensor, n_tasks: int) -> Tensor:
    """The sum of `values` (R,) over the rows read of each task: (N,)."""
    total = torch.zeros(n_tasks, dtype=values.dtype, device=values.device)
    return total.index_add(0, task_ids[read], values[read])
