"""Task-level averaging (TLA): the mean over the tasks present in a step of each task's own mean loss."""

from __future__ import annotations

import torch


def token_counts(
    labels: torch.Tensor,
    task_ids: torch.Tensor,
    num_tasks: int,
    *,
    ignore_index: int = -100,
    shift: bool = False,
) -> torch.Tensor:
    """The number of valid tokens of each task, (num_tasks,) int64.

    Args:
        labels: (..., S) int64; a token is valid where its label is not `ignore_index`.
        task_ids: int64 in 0..num_tasks-1, of the labels' shape or one per leading sample (B,).
        num_tasks: N.
        ignore_index: the label of tokens that are not trained on.
        shift: whether the loss predicts position t+1 from t, so that a sequence's first label is no target.

    Raises:
        ValueError: shapes that do not fit, or an id out of range.

    Example:
        >>> token_counts(torch.tensor([[5, 2], [7, -100]]), torch.tensor([0, 2]), 3)
        tensor([2, 0, 1])
    """
    if task_ids.shape != labels.shape:
        if task_ids.shape != labels.shape[:1]:
            raise ValueError(
                f"task_ids must have the labels' shape {tuple(labels.shape)} or one id per leading sample "
                f"{tuple(labels.shape[:1])}, got {tuple(task_ids.shape)}"
            )
        task_ids = task_ids.reshape(-1, *[1] * (labels.dim() - 1)).expand_as(labels)
    if shift:
        labels, task_ids = labels[..., 1:], task_ids[..., 1:]
    counts = torch.bincount(task_ids[labels != ignore_index], minlength=num_tasks)
    if counts.numel() != num_tasks:
        raise ValueError(f"task_ids must lie in 0..{num_tasks - 1}, got {counts.numel() - 1}")
    return counts


def tla_weights(counts: torch.Tensor) -> torch.Tensor:
    """The task weights that turn the weighted mean of Eq. 2 into TLA, (N,) float32.

    w_t = c / n_t with c = sum(n) / (tasks present). A task absent from the step gets 0, which no token uses.

    Args:
        counts: n, (N,) int64, the valid tokens of each task in the whole optimizer step (`token_counts`).

    Example:
        >>> tla_weights(torch.tensor([30, 10, 0]))
        tensor([0.6667, 2.0000, 0.0000])
    """
    present = counts > 0
    mean = counts.sum() / present.sum().clamp(min=1)
    return torch.where(present, mean / counts.clamp(min=1), torch.zeros_like(mean)).float()
