"""The loss as `csrc_triton.reference` states it, from the operators' arguments; autograd does the rest."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from cotbal._arguments import LossOutputs, RowArguments
from csrc_triton import reference
from csrc_triton.checks import check_rows
from csrc_triton.rows import Rows


# Not to be compiled: which rows it reads depends on data, and torch 2.11's compiler fails on its hooks. The
# public decorator would import the compiler for everybody.
@_disable_dynamo
def linear_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, arguments: RowArguments) -> LossOutputs:
    """Returns `loss` on logits = hidden @ weight.T + bias, of hidden (R, D), weight (V, D) and bias (V,)."""
    _, read = _weights_and_read(arguments.rows(weight.shape[0], hidden), arguments)
    # What is not finite at a row that is not read must not reach the head's gradient as 0 * NaN.
    logits = hidden.where(read[:, None], torch.zeros_like(hidden)) @ weight.t()
    return loss(logits if bias is None else logits + bias, arguments)


@_disable_dynamo
def loss(logits: Tensor, arguments: RowArguments) -> LossOutputs:
    """Returns the loss on logits (R, V) and its sums per task, which are detached."""
    rows = arguments.rows(logits.shape[1], logits)
    weights, read = _weights_and_read(rows, arguments)
    above = _FromAbove()
    logits, weights = above.given_back_to(logits), above.given_back_to(weights)
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
    total = above.taken_from(reference.reduce_losses(losses, weights, divisor, arguments.reduction))
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


class _FromAbove:
    """What comes from above and is not finite is applied last, so that 0 stays 0: 0 times NaN is none."""

    def __init__(self) -> None:
        self._factor = torch.ones(())

    def taken_from(self, loss: Tensor) -> Tensor:
        """The loss, 0-d or (R,), whose gradient is taken for 1 where it is not finite."""

        def take(gradient: Tensor) -> Tensor:
            self._factor = gradient.masked_fill(gradient.isfinite(), 1)
            return gradient.masked_fill(~gradient.isfinite(), 1)

        return _hooked(loss, take)

    def given_back_to(self, values: Tensor) -> Tensor:
        """The same values, (R, V) or (R,), whose gradient is multiplied by what was taken."""

        def give_back(gradient: Tensor) -> Tensor:
            factor = self._factor.to(gradient.dtype)
            factor = factor[:, None] if factor.ndim == 1 < gradient.ndim else factor
            return torch.where(gradient == 0, gradient, gradient * factor)

        return _hooked(values, give_back)


def _hooked(values: Tensor, hook: Callable[[Tensor], Tensor]) -> Tensor:
    """The same values; `hook` changes their gradient where there is one."""
    if values.requires_grad:
        values = values.view_as(values)
        values.register_hook(lambda gradient: None if gradient is None else hook(gradient))
    return values
