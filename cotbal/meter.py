"""Per-task running sums of a training run, read once per logging step."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cotbal._calls import TaskStats
from cotbal._float64 import as_float64, float64_device
from cotbal.tasks import task_names


class TaskMeter:
    """Adds up the steps' sums per task on the device until they are read.

    Args:
        tasks: task names in the order of their ids.

    Example:
        >>> meter = TaskMeter(["VQAv2", "GQA"])
        >>> sums = TaskStats(torch.tensor([6.0, 0.0]), torch.tensor([4, 0]), torch.tensor([1, 0]))
        >>> meter.add(sums, torch.tensor([0.75, 1.25]))
        >>> meter.read()["task_loss/VQAv2"]
        1.5
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self.tasks = task_names(tasks)
        self._rows: Tensor | None = None
        self._steps = 0

    def add(self, sums: TaskStats, weights: Tensor) -> None:
        """Adds one optimizer step; nothing is waited for.

        Args:
            sums: (N,) each, of the whole step over all ranks.
            weights: (N,), the task weights of that step.

        Raises:
            ValueError: not one number for each task.
        """
        # Detached: of weights that are trained, every step's graph would be kept until the reading.
        rows = torch.stack([as_float64(each.detach()) for each in (*sums, weights)])
        if rows.shape[1] != len(self.tasks):
            raise ValueError(f"sums: expected one for each of {len(self.tasks)} tasks, got {rows.shape[1]}")
        self._rows = rows if self._rows is None else self._rows + rows
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What the steps since the last reading add up to, as JSON values; waits for the device."""
        rows = [] if self._rows is None else self._rows.T.tolist()
        return {"steps": self._steps, "sums": dict(zip(self.tasks, rows, strict=False))}

    def load_state_dict(self, saved: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Goes on from what `state_dict` returned, on the device of the sums to come."""
        self._rows = None
        if saved["steps"]:
            rows = [saved["sums"][name] for name in self.tasks]
            self._rows = torch.tensor(rows, dtype=torch.float64, device=float64_device(device)).T
        self._steps = saved["steps"]

    def read(self) -> dict[str, float]:
        """Returns what the steps since the last reading add up to, and starts anew; waits for the device.

        Returns:
            Empty without a step. Else for each task `task_tokens/<name>`, the valid tokens that were trained
            on, none under a weight of 0, and `task_weight/<name>`, the mean over the steps; and where it had
            such a token `task_loss/<name>`, the mean loss of a token in nats, and `task_accuracy/<name>`, the
            share of top-1-correct tokens.
        """
        rows, steps = self._rows, self._steps
        self._rows, self._steps = None, 0
        logs: dict[str, float] = {}
        if rows is None:
            return logs
        for name, loss, tokens, correct, weight in zip(self.tasks, *rows.tolist(), strict=True):
            if tokens:
                logs[f"task_loss/{name}"] = loss / tokens
                logs[f"task_accuracy/{name}"] = correct / tokens
            logs[f"task_tokens/{name}"] = tokens
            logs[f"task_weight/{name}"] = weight / steps
        return logs
