"""What the operators compute, outside of autograd: weights of rows, losses and gradients, sums."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cotbal._arguments import LossOutputs, RowArguments
from csrc_triton import task_stats, torch_path
from csrc_triton.checks import check_rows, require
from csrc_triton.linear_gtw_cross_entropy import RowLoss
from csrc_triton.rows import Rows, scale_of


@dataclass(frozen=True)
class Weighed:
    """A call whose rows have been checked and weighed: known before the logits are.

    Attributes:
        arguments: the call.
        rows: its rows; under `reads_unweighted` a row that is not read has the label `ignore_index`.
        weights: (R,) w_r.
        divisor: 0-d, what the sum of w_r c_r is divided by, or None.
    """

    arguments: RowArguments
    rows: Rows
    weights: Tensor
    divisor: Tensor | None

    @property
    def read(self) -> Tensor:
        """Whether a row's logits are read: (R,) bool."""
        return self.is_read(self.rows.labels, self.weights)

    def read_apart(self, row_upstream: Tensor | None) -> Tensor | None:
        """`read`, or None where the rows that are read are those of weight other than 0.

        Args:
            row_upstream: (R,), what the weights are multiplied by, or None.
        """
        return self.read if self.arguments.reads_unweighted or row_upstream is not None else None

    def is_read(self, labels: Tensor, weights: Tensor) -> Tensor:
        """Whether the logits of some of the rows are read: (C,) bool."""
        if self.arguments.reads_unweighted:
            return labels != self.rows.ignore_index
        return weights != 0


def weigh(arguments: RowArguments, n_cols: int, features: Tensor) -> Weighed:
    """Checks and weighs the rows of logits (R, V) that come from `features`.

    Raises:
        ValueError: values out of range, on a CPU; on a GPU a queued assertion fails.
    """
    rows = arguments.rows(n_cols, features)
    if arguments.impl == "triton":
        weights, mass = _weigh_by_kernel(rows, arguments.denominator)
    else:
        check_rows(rows, arguments.denominator)
        weights, mass = rows.weights, rows.times_class_weight(rows.weights)
    divisor = None
    if arguments.reduction == "weighted_mean":
        divisor = mass.sum() if arguments.denominator is None else arguments.denominator
    if arguments.reads_unweighted:
        # Not before: what such a row brings is checked as in any other call.
        read = rows.valid & (rows.token_mass != 0)
        rows = replace(rows, labels=rows.labels.masked_fill(~read, rows.ignore_index))
    return Weighed(arguments, rows, weights, divisor)


def _weigh_by_kernel(rows: Rows, denominator: Tensor | None) -> tuple[Tensor, Tensor]:
    from csrc_triton import row_sums

    if not rows.labels.is_cuda:
        check_rows(rows, denominator)
    weights, mass, is_right = row_sums.weigh_rows(rows, denominator)
    expected = (
        f"expected labels in 0..{rows.n_cols - 1}, task_ids in 0..{rows.n_tasks - 1}, finite weights >= 0 "
        "whose products are 0 only where one of them is, with a sum that float32 can divide by, and a "
        "denominator > 0; the same call on a CPU says which is not"
    )
    require(is_right, expected, is_right)
    return weights, mass


def loss_on_logits(
    weighed: Weighed, logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns c and correct, both (C,), of some rows of the call; fills `gradient`, which may be `logits`.

    Args:
        weighed: the call.
        logits: (C, V), unit column stride.
        labels: (C,) int64.
        weights: (C,) w_r.
        gradient: (C, V) to receive w_r / divisor dc_r/dlogits, or None.
    """
    arguments = weighed.arguments
    if arguments.impl == "triton":
        from csrc_triton import gtw_cross_entropy as kernel

        return kernel.gtw_cross_entropy_forward(
            logits,
            labels,
            weights,
            weighed.divisor,
            arguments.options,
            gradient=gradient,
            want_correct=arguments.want_correct,
            ignore_index=arguments.ignore_index,
            reads_unweighted=arguments.reads_unweighted,
        )
    return torch_path.gtw_cross_entropy_forward(
        logits,
        labels,
        weighed.is_read(labels, weights),
        scale_of(weights, weighed.divisor),
        arguments.options,
        gradient=gradient,
        want_correct=arguments.want_correct,
    )


def row_loss_of(weighed: Weighed) -> RowLoss:
    """The loss of a chunk of the linear level's logits."""

    def row_loss(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return loss_on_logits(weighed, logits, labels, weights, gradient)

    return row_loss


def with_upstream(row_loss: RowLoss, impl: str) -> RowLoss:
    """`row_loss` for weights that are multiplied by what comes from above, which may be inf or NaN.

    That is applied last, so that a gradient of 0 stays 0. Rows of finite weight cost no pass; in plain torch
    on a GPU, where the others could not be told from them without waiting, it is left out.
    """

    def apart(
        logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if gradient is None or (weights.is_cuda and impl != "triton"):
            return row_loss(logits, labels, weights, gradient)
        is_finite = weights.isfinite()
        result = row_loss(logits, labels, torch.where(is_finite, weights, 1.0), gradient)
        scale_rows_(gradient, torch.where(is_finite, 1.0, weights), None, 0, impl)
        return result

    return apart


def scale_rows_(
    gradient: Tensor, factor: Tensor, labels: Tensor | None, ignore_index: int, impl: str
) -> None:
    """Multiplies `gradient` (R, V) by `factor`, 0-d or (R,); factors of 1 alone cost no pass.

    What is 0 stays 0, whatever the factor. With `labels` (R,), the rows of `ignore_index` have a gradient of
    0, which need not be scaled.
    """
    if impl == "triton":
        from csrc_triton import gtw_cross_entropy as kernel

        kernel.scale_rows_(gradient, factor, labels, ignore_index)
    # Reading the factor is free on a CPU and a synchronisation on a GPU.
    elif factor.is_cuda or bool((factor != 1).any()):
        torch_path.scale_rows_(gradient, factor)


def outputs_of(weighed: Weighed, losses: Tensor, correct: Tensor) -> LossOutputs:
    """Eq. 2 and the sums per task from c (R,) and correct (R,) bool; 0 where the denominator is 0."""
    arguments, rows, weights, divisor = weighed.arguments, weighed.rows, weighed.weights, weighed.divisor
    if arguments.impl == "triton":
        from csrc_triton import row_sums

        reads_unweighted = arguments.reads_unweighted
        sums = row_sums.sum_rows(losses, correct, weights, rows, divisor, reads_unweighted=reads_unweighted)
    else:
        sums = task_stats.sum_rows(losses, correct, weighed.read, rows, divisor)
    loss = sums.loss
    if arguments.reduction == "none":
        loss = task_stats.weighted_losses(losses, weights)
    return LossOutputs(loss, losses, sums.loss_sum, sums.mass_sum, sums.token_count, sums.correct_count)
