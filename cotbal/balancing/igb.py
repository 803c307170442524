"""Improvable gap balancing, version 1 (IGBv1): more weight for a task whose loss is near where it began."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cotbal.balancing.base import LEAST, Weighting, is_whole, ratio


class IGBv1(Weighting):
    """N softmax(l_t / base_t), l_t task t's last loss and base_t its mean loss over the base window.

    The base window is the steps base_start, ..., base_stop - 1, counted from 0; all weights are 1 until it
    is over. Its mean is over the steps where the task occurred, and the loss that it had at the window's end
    if it occurred in none. A task not yet seen by then has l_t / base_t = 1, and so has one whose base is 0.
    No weight goes below 2^-64: under one of 0 the task's loss would be measured no more.

    Example:
        >>> rule = IGBv1(base_start=0, base_stop=1).bind(["VQA", "caption"])
        >>> for loss_sum in ([8.0, 9.0], [4.0, 9.0]):
        ...     rule.update(torch.tensor(loss_sum), torch.tensor([4, 3]))
        >>> rule.weights(torch.tensor([4, 3]))
        tensor([0.7551, 1.2449])

    Args:
        base_start: the first step of the base window.
        base_stop: the first step after it.
        fixed: as for every `Weighting`.

    Raises:
        ValueError: not 0 <= base_start < base_stop.
    """

    least = LEAST

    def __init__(
        self, base_start: int = 100, base_stop: int = 200, *, fixed: Mapping[str, float] | None = None
    ) -> None:
        if not (is_whole(base_start) and is_whole(base_stop) and 0 <= base_start < base_stop):
            raise ValueError(
                f"base_start, base_stop: expected whole numbers 0 <= base_start < base_stop, "
                f"got {base_start!r}, {base_stop!r}"
            )
        base_start, base_stop = int(base_start), int(base_stop)
        super().__init__(fixed=fixed, base_start=base_start, base_stop=base_stop)
        self.base_start, self.base_stop = base_start, base_stop

    def initial_state(self, n_tasks: int) -> dict[str, Tensor]:
        """The sum (N,) of the losses of the base window, and in how many of its steps each task occurred."""
        return {
            "base_sum": torch.zeros(n_tasks, dtype=torch.float64),
            "base_steps": torch.zeros(n_tasks, dtype=torch.int64),
        }

    def observe(self, loss: Tensor, present: Tensor) -> None:
        """Adds a step of the base window; at its end, a task that was in none gets its last loss."""
        if not self.base_start <= self.step < self.base_stop:
            return
        taken = present
        if self.step == self.base_stop - 1:
            taken = present | ((self.state["base_steps"] == 0) & self.state["seen"])
        self.state["base_sum"] = self.state["base_sum"] + torch.where(taken, loss, 0.0)
        self.state["base_steps"] = self.state["base_steps"] + taken

    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,)."""
        if self.step < self.base_stop:
            return torch.ones_like(counts, dtype=torch.float32)
        steps = self.state["base_steps"]
        base = self.state["base_sum"] / steps.clamp(min=1)
        return len(counts) * ratio(self.last_loss, base, steps > 0).softmax(0)
