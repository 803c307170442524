"""The sums per task, as a CPU adds them and as a GPU does."""

import math

import pytest
import torch

from csrc_triton import task_stats
from csrc_triton.rows import Rows


@pytest.mark.parametrize("path", ["_added_in_order", "_added_by_mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_the_counted_rows_of_a_task_are_summed(path: str, dtype: torch.dtype) -> None:
    """What is not counted may hold NaN and the id of no task; a task without rows has 0."""
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0 if dtype == torch.int64 else math.nan]).to(dtype)
    task_ids = torch.tensor([2, 0, 2, 3, -100])
    is_counted = torch.tensor([True, True, True, True, False])
    sums = getattr(task_stats, path)(values, task_ids, is_counted, 5)
    assert (sums.dtype, sums.tolist()) == (dtype, [2, 0, 5, 8, 0])


def test_a_cpu_makes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of tasks it made a step ten times as long."""
    labels, ids, weights = torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.ones(6)
    rows = Rows(labels, ids, weights, None, None, -100, n_cols=3, dtype=torch.float32)
    monkeypatch.setattr(task_stats, "_added_by_mask", None)
    assert task_stats.per_task(torch.ones(4), rows, rows.valid).tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
