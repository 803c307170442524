"""What each row carries besides its logits. Made from labels only, so it is known before the forward pass."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Labels and weights of R rows; every tensor is contiguous and on one device.

    Attributes:
        labels: (R,) int64, `ignore_index` where the row is not valid.
        task_ids: (R,) int64 in 0..N-1 at valid rows, or None.
        task_weights: (N,) in the accumulation dtype, finite and >= 0; given exactly when `task_ids` is.
        token_weights: (R,) in the accumulation dtype, finite and >= 0, or None.
        ignore_index: the label of a row that is not valid.
        dtype: the accumulation dtype, float32 or float64.
    """

    labels: Tensor
    task_ids: Tensor | None
    task_weights: Tensor | None
    token_weights: Tensor | None
    ignore_index: int
    dtype: torch.dtype

    @cached_property
    def weights(self) -> Tensor:
        """w_r = token_weights_r * task_weights[task_ids_r], 0 where the row is not valid: (R,)."""
        valid = self.labels != self.ignore_index
        if self.task_ids is None or self.task_weights is None:
            weights = valid.to(self.dtype)
        else:
            # The id of an ignored row may be anything, its padding included.
            weights = self.task_weights[self.task_ids * valid] * valid
        return weights if self.token_weights is None else weights * self.token_weights


def scale_of(weights: Tensor, denominator: Tensor | None) -> Tensor:
    """w_r / denominator, the factor of each row's gradient: (R,); all 0 where the denominator is 0."""
    if denominator is None:
        return weights
    return torch.where(denominator > 0, weights / denominator, torch.zeros_like(weights))
