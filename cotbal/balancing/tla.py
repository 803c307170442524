"""Task-level averaging (TLA): the mean over the tasks present in a step of each task's own mean loss."""

import torch
from torch import Tensor

from cotbal.balancing.base import Weighting


class TLA(Weighting):
    """The weights that turn the weighted mean of Eq. 2 into the mean of the present tasks' mean losses.

    w_t = c / n_t, with n_t the task's tokens in the step and c = sum_t n_t / (tasks present). A task absent
    from the step gets 0, which no token uses. There are no fixed tasks: each counts as one task.

    Example:
        >>> TLA().bind(["VQA", "caption", "chat"]).weights(torch.tensor([30, 10, 0]))
        tensor([0.6667, 2.0000, 0.0000])
    """

    def __init__(self) -> None:
        super().__init__()

    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,) of the step with these token counts (N,)."""
        counts, present = counts.to(torch.float64), counts > 0
        mean = counts.sum() / present.sum().clamp(min=1)
        return torch.where(present, mean / torch.where(present, counts, 1.0), 0.0)
