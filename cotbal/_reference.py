"""The loss as `csrc_triton.reference` states it, from the operators' arguments; autograd does the rest."""

import torch
from torch import Tensor

from cotbal._arguments import LossOutputs, RowArguments
from csrc_triton import reference
from csrc_triton.checks import check_rows
from csrc_triton.rows import Rows


def linear_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: RowArguments) -> LossOutputs:
    """Returns `loss` on logits = hidden @ weight.T + bias, of hidden (R, D), weight (V, D) and bias (V,)."""
    _, read = _weights_and_read(arguments.rows(weight.shape[0], hidden), arguments)
    # What is not finite at a row that is not read must not reach the head's gradient as 0 * NaN.
    logits = hidden.where(read[:, None], torch.zeros_like(hidden)) @ weight.t()
    return loss(logits if bias is None else logits + bias, arguments)


def loss(logits: Tensor, arguments: RowArguments) -> LossOutputs:
    """Returns the loss on logits (R, V) and its sums per task, which are detached."""
    rows = arguments.rows(logits.shape[1], logits)
    weights, read = _weights_and_read(rows, arguments)
    class_weights = reference.class_weight_of(rows.labels, read, arguments.options, rows.dtype)
    divisor = (weights * class_weights).sum() if arguments.denominator is None else arguments.denominator
    adds_nothing = weights == 0
    if arguments.reduction == "weighted_mean":
        adds_nothing = adds_nothing | (divisor == 0)
    # What is not finite there must not reach the logits' gradient as 0 * NaN.
    losses = reference.row_losses(logits.detach(), rows.labels, read, arguments.options)
    is_spoilt = adds_nothing & ~losses.isfinite()
    logits = logits.where(~is_spoilt[:, None], logits.detach())
    losses = reference.row_losses(logits, rows.labels, read, arguments.options)
    total = reference.reduce_losses(losses, weights, divisor, arguments.reduction)
    tokens = read.to(rows.dtype) if rows.token_weights is None else rows.token_weights
    correct = reference.top1_correct(logits.detach(), rows.labels, read, arguments.options.softcap)
    counted = (tokens * losses.detach(), tokens * class_weights, read.long(), correct.long())
    if rows.task_ids is None:
        return LossOutputs(total, losses.detach(), *(values.new_zeros(0) for values in counted))
    sums = (reference.task_sums(values, rows.task_ids, read, rows.n_tasks) for values in counted)
    return LossOutputs(total, losses.detach(), *sums)


def _weights_and_read(rows: Rows, arguments: RowArguments) -> tuple[Tensor, Tensor]:
    """w_r (R,), and whether a row's logits are read, (R,) bool."""
    check_rows(rows, arguments.denominator)
    others = rows.token_weights, rows.ignore_index, rows.dtype
    weights = reference.row_weights(rows.labels, rows.task_ids, rows.task_weights, *others)
    read_by = (
        reference.row_weights(rows.labels, None, None, *others) if arguments.reads_unweighted else weights
    )
    return weights, read_by != 0
