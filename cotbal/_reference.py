"""The loss as `csrc_triton.reference` states it, from the operators' arguments; autograd does the rest."""

from torch import Tensor

from cotbal._arguments import LossOutputs, RowArguments
from csrc_triton import reference
from csrc_triton.checks import check_rows


def loss(logits: Tensor, arguments: RowArguments) -> LossOutputs:
    """Returns the loss on logits (R, V) and its sums per task, which are detached."""
    rows = arguments.rows(logits.shape[1], logits)
    check_rows(rows, arguments.denominator)
    weights = reference.row_weights(
        rows.labels, rows.task_ids, rows.task_weights, rows.token_weights, rows.ignore_index, rows.dtype
    )
    read = weights != 0
    if arguments.reads_unweighted:
        read = (
            reference.row_weights(rows.labels, None, None, rows.token_weights, rows.ignore_index, rows.dtype)
            != 0
        )
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
