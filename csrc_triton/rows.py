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
        class_weights: (V,) in the accumulation dtype, finite and >= 0, or None.
        ignore_index: the label of a row that is not valid.
        n_cols: V.
        dtype: the accumulation dtype, float32 or float64.
    """

    labels: Tensor
    task_ids: Tensor | None
    task_weights: Tensor | None
    token_weights: Tensor | None
    class_weights: Tensor | None
    ignore_index: int
    n_cols: int
    dtype: torch.dtype

    @property
    def n_tasks(self) -> int:
        """N, or 0 without tasks."""
        return 0 if self.task_weights is None else self.task_weights.numel()

    @cached_property
    def valid(self) -> Tensor:
        """Whether the label is not `ignore_index`: (R,) bool."""
        return self.labels != self.ignore_index

    @cached_property
    def token_mass(self) -> Tensor:
        """token_weights_r, 1 without them, 0 where the row is not valid: (R,)."""
        mass = self.valid.to(self.dtype)
        return mass if self.token_weights is None else mass * self.token_weights

    @cached_property
    def weights(self) -> Tensor:
        """w_r = token_weights_r * task_weights[task_ids_r], 0 where the row is not valid: (R,)."""
        if self.task_ids is None or self.task_weights is None:
            return self.token_mass
        # The id of an ignored row may be anything, its padding included.
        return self.task_weights.gather(0, self.task_ids * self.valid) * self.token_mass

    def times_class_weight(self, values: Tensor) -> Tensor:
        """`values` (R,) times cw[y_r]; as they are without class weights."""
        if self.class_weights is None:
            return values
        return values * self.class_weights[self.labels * self.valid]


def most_of_a_row(n_rows: int, dtype: torch.dtype) -> float:
    """The largest w_r and w_r cw[y_r] of R rows: their sum can be divided by, no row's share of it is 0."""
    # A GPU divides rightly by up to a quarter of the largest number.
    return torch.finfo(dtype).max / 4 / max(1, n_rows)


def scale_of(weights: Tensor, denominator: Tensor | None) -> Tensor:
    """w_r / denominator, the factor of each row's gradient: (R,); all 0 where the denominator is 0."""
    if denominator is None:
        return weights
    return torch.where(denominator > 0, weights / denominator, torch.zeros_like(weights))
