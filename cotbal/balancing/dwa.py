"""Dynamic weight average (DWA): more weight for a task whose loss falls more slowly than the others'."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from cotbal.balancing.base import LEAST, Weighting, is_number, is_whole, ratio


class DWA(Weighting):
    """N softmax(r / temperature), r_t = t's mean loss over the last `window` steps / over the window before.

    Both windows slide with every step; all weights are 1 until both are full. A window's mean is over the
    steps where the task occurred, and the loss that it had at the window's end if it occurred in none. A task
    not yet seen by the end of the earlier window has r = 1, and so has one whose loss was 0 there. No weight
    goes below 2^-64: under one of 0 the task's loss would be measured no more.

    Example:
        >>> rule = DWA(window=1).bind(["VQA", "caption"])
        >>> for loss_sum in ([8.0, 9.0], [4.0, 9.0]):
        ...     rule.update(torch.tensor(loss_sum), torch.tensor([4, 3]))
        >>> rule.weights(torch.tensor([4, 3]))
        tensor([0.8756, 1.1244])

    Args:
        window: steps of a window.
        temperature: the larger, the more equal the weights.
        fixed: as for every `Weighting`.

    Raises:
        ValueError: a window below 1, or a temperature that is not positive and finite.
    """

    least = LEAST

    def __init__(
        self, window: int = 25, temperature: float = 2.0, *, fixed: Mapping[str, float] | None = None
    ) -> None:
        if not (is_whole(window) and window >= 1):
            raise ValueError(f"window: expected a whole number of steps >= 1, got {window!r}")
        window = int(window)
        if not (is_number(temperature) and 0 < temperature < math.inf):
            raise ValueError(f"temperature: expected a finite number > 0, got {temperature!r}")
        super().__init__(fixed=fixed, window=window, temperature=temperature)
        self.window, self.temperature = window, temperature

    def initial_state(self, n_tasks: int) -> dict[str, Tensor]:
        """The losses (2 window, N) of both windows, whether a task was there, whether seen by then."""
        rows = 2 * self.window, n_tasks
        return {
            "losses": torch.zeros(rows, dtype=torch.float64),
            "present": torch.zeros(rows, dtype=torch.bool),
            "known": torch.zeros(rows, dtype=torch.bool),
        }

    def observe(self, loss: Tensor, present: Tensor) -> None:
        """The oldest step goes, the newest comes last."""
        for name, row in (("losses", loss), ("present", present), ("known", self.state["seen"])):
            self.state[name] = torch.cat([self.state[name][1:], row[None]])

    def compute(self, counts: Tensor) -> Tensor:
        """The weights (N,)."""
        if self.step < 2 * self.window:
            return torch.ones_like(counts, dtype=torch.float32)
        before, last = self._window_mean(0), self._window_mean(self.window)
        r = ratio(last, before, self.state["known"][self.window - 1])
        return len(counts) * (r / self.temperature).softmax(0)

    def _window_mean(self, start: int) -> Tensor:
        """(N,) mean loss over the window that begins at row `start`."""
        losses = self.state["losses"][start : start + self.window]
        present = self.state["present"][start : start + self.window]
        mean = torch.where(present, losses, 0.0).sum(0) / present.sum(0).clamp(min=1)
        return torch.where(present.any(0), mean, losses[-1])
