"""Weights that stay as they were stated: TaskWeights, a mapping, or equal weights (EW)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cotbal.balancing.base import Weighting
from cotbal.tasks import task_names
from cotbal.weights import TaskWeights


class StaticWeights(Weighting):
    """The same weights in every step.

    Example:
        >>> StaticWeights({"VQA": 0.5, "caption": 2.0}).bind(["caption", "VQA"]).weights(torch.tensor([7, 9]))
        tensor([2.0000, 0.5000])

    Args:
        weights: weight by task, `TaskWeights` or any mapping; None: all 1, which gives Eq. 1.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        given = weights if weights is None or isinstance(weights, TaskWeights) else TaskWeights(dict(weights))
        self.given = given

    def bind(self, tasks: Iterable[str], device: torch.device | str = "cpu") -> "StaticWeights":
        """As `Weighting.bind`; ValueError where a task has no weight."""
        names = task_names(tasks)
        weights = [1.0] * len(names) if self.given is None else self.given.to_tensor(names).tolist()
        # Every task is fixed: nothing is left to a rule.
        self.fixed = dict(zip(names, weights, strict=True))
        return super().bind(names, device)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """As `Weighting.load_state_dict`; the tasks may have another order, as a file's names may."""
        # `fixed` tells the weight of each by its name, and there is no other state.
        if sorted(saved.get("tasks", ())) == sorted(self.tasks):
            saved = {**saved, "tasks": list(self.tasks)}
        super().load_state_dict(saved)

    def compute(self, counts: Tensor) -> Tensor:
        """No weights: there is no task that is not fixed."""
        return torch.ones_like(counts, dtype=torch.float32)
