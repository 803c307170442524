"""The specification of the GTW loss in plain torch: one statement of each formula, the oracle of every test.

Nothing here is fast or shared with the implementations that it judges. Autograd differentiates it.
"""

import torch
from torch import Tensor

from csrc_triton.options import LossOptions


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


def class_weight_of(labels: Tensor, read: Tensor, options: LossOptions, dtype: torch.dtype) -> Tensor:
    """cw[y_r] at the rows that are read, 0 elsewhere; 1 and 0 without class weights: (R,) in `dtype`."""
    if options.class_weights is None:
        return read.to(dtype)
    weights = options.class_weights.to(dtype)[torch.where(read, labels, torch.zeros_like(labels))]
    return torch.where(read, weights, torch.zeros_like(weights))


def row_losses(logits: Tensor, labels: Tensor, read: Tensor, options: LossOptions) -> Tensor:
    """c_r of `LossOptions` at the rows that are read, exactly 0 elsewhere: (R,), accumulation dtype."""
    dtype = accumulation_dtype(logits.dtype)
    z, y = logits[read].to(dtype), labels[read][:, None]
    if options.softcap is not None:
        z = options.softcap * torch.tanh(z / options.softcap)
    n_cols = z.shape[1]
    class_weights = z.new_ones(n_cols) if options.class_weights is None else options.class_weights.to(dtype)
    minus_log_p = -torch.log_softmax(z, dim=1)
    kept = class_weights[y[:, 0]] * (1 - options.label_smoothing)
    lse = torch.logsumexp(z, dim=1)
    # A label that keeps nothing may have a logit of -inf; a row without a log-sum-exp is NaN all the same.
    losses = torch.where(kept == 0, 0 * lse, kept * minus_log_p.gather(1, y)[:, 0])
    if options.label_smoothing:
        terms = torch.where(class_weights == 0, torch.zeros_like(z), class_weights * minus_log_p)
        losses = losses + options.label_smoothing / n_cols * terms.sum(1)
    if options.z_loss:
        losses = losses + options.z_loss * lse**2
    return torch.zeros(labels.shape, dtype=dtype, device=logits.device).masked_scatter(read, losses)


def top1_correct(logits: Tensor, labels: Tensor, read: Tensor, softcap: float | None = None) -> Tensor:
    """Whether the label is the lowest index of the largest logit, at the rows that are read: (R,) bool.

    A row whose z has a NaN or +inf, and so no probabilities, is not correct.
    """
    z = logits[read]
    beaten_by = torch.arange(z.shape[1], device=z.device) < labels[read][:, None]
    label_logits = z.gather(1, labels[read][:, None])
    beaten = torch.where(beaten_by, z >= label_logits, z > label_logits).any(dim=1)
    z = z if softcap is None else torch.tanh(z / softcap)
    return torch.zeros_like(read).masked_scatter(read, ~beaten & (z < torch.inf).all(dim=1))


def reduce_losses(losses: Tensor, weights: Tensor, divisor: Tensor | None, reduction: str) -> Tensor:
    """Eq. 2: sum_r w_r c_r / divisor; with "sum" the numerator, with "none" each w_r c_r.

    The divisor (0-d) is sum_r w_r cw[y_r], or the denominator that was given. Where it is 0 so is the loss.
    """
    if reduction != "weighted_mean":
        return _weighted(losses, weights) if reduction == "none" else _weighted(losses, weights).sum()
    assert divisor is not None
    is_zero = divisor == 0
    total = _weighted(torch.where(is_zero, torch.zeros_like(losses), losses), weights).sum()
    return total / torch.where(is_zero, torch.ones_like(divisor), divisor)


def _weighted(losses: Tensor, weights: Tensor) -> Tensor:
    """w_r c_r; a row of weight 0 adds 0, not 0 * inf, though its loss is the gradient in its weight."""
    weighted = weights * losses
    with torch.no_grad():
        weighted.masked_fill_((weights == 0) & ~losses.isfinite(), 0)
    return weighted


def task_sums(values: Tensor, task_ids: Tensor, read: Tensor, n_tasks: int) -> Tensor:
    """The sum of `values` (R,) over the rows read of each task: (N,)."""
    total = torch.zeros(n_tasks, dtype=values.dtype, device=values.device)
    return total.index_add(0, task_ids[read], values[read])
