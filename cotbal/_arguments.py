"""The arguments that the operators share, and what they return before their gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from csrc_triton.options import LossOptions
from csrc_triton.reference import accumulation_dtype
from csrc_triton.rows import Rows

# The arguments of `RowArguments` and the results of `LossOutputs`, as every operator declares them.
ROW_SCHEMA = (
    "Tensor labels, Tensor? task_ids, Tensor? task_weights, Tensor? token_weights, Tensor? class_weights, "
    "Tensor? denominator, int ignore_index, str reduction, float label_smoothing, float z_loss, "
    "float? softcap, bool want_correct, bool reads_unweighted, str impl"
)
OUTPUT_SCHEMA = (
    "Tensor loss, Tensor losses, Tensor loss_sum, Tensor mass_sum, Tensor token_count, Tensor correct_count"
)


class RowArguments(NamedTuple):
    """What an operator takes besides its features.

    Attributes:
        labels: this and the next four tensors as in `Rows`.
        denominator: 0-d, in place of sum_r w_r cw[y_r], or None.
        reduction: "weighted_mean", "sum" or "none".
        label_smoothing: this and the next two as in `LossOptions`.
        want_correct: whether top-1 correctness is wanted.
        reads_unweighted: whether rows whose task has weight 0 are read: a gradient in that weight is wanted.
        impl: "triton" or "torch".
    """

    labels: Tensor
    task_ids: Tensor | None
    task_weights: Tensor | None
    token_weights: Tensor | None
    class_weights: Tensor | None
    denominator: Tensor | None
    ignore_index: int
    reduction: str
    label_smoothing: float
    z_loss: float
    softcap: float | None
    want_correct: bool
    reads_unweighted: bool
    impl: str

    def rows(self, n_cols: int, features: Tensor) -> Rows:
        """The rows of logits (R, V) that come from `features`."""
        return Rows(
            self.labels,
            self.task_ids,
            self.task_weights,
            self.token_weights,
            self.class_weights,
            self.ignore_index,
            n_cols,
            accumulation_dtype(features.dtype),
        )

    @property
    def options(self) -> LossOptions:
        """What a row's loss is."""
        return LossOptions(self.label_smoothing, self.z_loss, self.softcap, self.class_weights)


class LossOutputs(NamedTuple):
    """The loss, 0-d or (R,); c (R,); and the sums per task of `RowSums`. Only the loss is differentiable."""

    loss: Tensor
    losses: Tensor
    loss_sum: Tensor
    mass_sum: Tensor
    token_count: Tensor
    correct_count: Tensor

    @classmethod
    def fake(cls, arguments: RowArguments, features: Tensor) -> "LossOutputs":
        """Tensors of the right shapes and dtypes, for tracing."""
        labels, n_tasks = arguments.labels, 0
        if arguments.task_weights is not None:
            n_tasks = arguments.task_weights.shape[0]
        losses = labels.new_empty(labels.shape, dtype=accumulation_dtype(features.dtype))
        loss = torch.empty_like(losses) if arguments.reduction == "none" else losses.new_empty(())
        sums = losses.new_empty(n_tasks), losses.new_empty(n_tasks)
        return cls(loss, losses, *sums, labels.new_empty(n_tasks), labels.new_empty(n_tasks))
