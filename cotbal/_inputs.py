"""Checks what a loss is given and lays it out as rows; an error says what was expected and what came."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton.reference import accumulation_dtype
from csrc_triton.rows import Rows

_REDUCTIONS = ("weighted_mean", "sum", "none")
_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WEIGHT_DTYPES = (torch.float32, torch.float64)
# What each option of the full interface is when it is not used.
_UNUSED = {"label_smoothing": 0.0, "z_loss": 0.0, "inplace": False, "accumulate_weight_grad": False}


@dataclass(frozen=True)
class RowInputs:
    """The arguments of a loss after their checks, in the shapes that the caller gave."""

    n_cols: int
    labels: Tensor
    task_ids: Tensor | None
    task_weights: Tensor | None
    token_weights: Tensor | None
    denominator: Tensor | None
    ignore_index: int
    reduction: str
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        features: Tensor,
        n_cols: int,
        labels: Tensor,
        task_ids: Tensor | None,
        task_weights: Tensor | None,
        token_weights: Tensor | None,
        denominator: Tensor | None,
        ignore_index: int,
        reduction: str,
    ) -> "RowInputs":
        """Checks the arguments that go with `features`, the logits (..., V) or the hidden states (..., D)."""
        if features.dtype not in _LOGIT_DTYPES:
            raise TypeError(f"logits or hidden states: expected a floating dtype, got {features.dtype}")
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
        _check_labels(labels, features)
        task_ids = _check_tasks(labels, task_ids, task_weights)
        _check_weights("task_weights", task_weights, features)
        if token_weights is not None and token_weights.shape != labels.shape:
            raise ValueError(
                f"token_weights: expected the labels' shape {tuple(labels.shape)}, "
                f"got {tuple(token_weights.shape)}"
            )
        _check_weights("token_weights", token_weights, features)
        _check_denominator(denominator, reduction, features)
        return cls(
            n_cols,
            labels,
            task_ids,
            task_weights,
            token_weights,
            denominator,
            ignore_index,
            reduction,
            accumulation_dtype(features.dtype),
        )


def check_options(**options: object) -> None:
    """Raises NotImplementedError for each option of the full interface that this version does not carry."""
    for name, value in options.items():
        if isinstance(value, Tensor) or value not in (None, _UNUSED.get(name)):
            raise NotImplementedError(f"{name}: not implemented in this version of cotbal; leave it out")


def check_linear(hidden: Tensor, weight: Tensor, reduction: str, memory_budget: int | str | None) -> None:
    """Checks what only the linear loss has: hidden (..., D), weight (V, D) and the memory budget."""
    if weight.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden, weight: expected (..., D) and (V, D), "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype:
        raise TypeError(f"weight: expected the dtype of hidden, {hidden.dtype}, got {weight.dtype}")
    if reduction == "none":
        raise NotImplementedError(
            'reduction="none": not implemented for the linear loss in this version; use gtw_cross_entropy'
        )
    is_bytes = isinstance(memory_budget, int) and not isinstance(memory_budget, bool) and memory_budget > 0
    if memory_budget is not None and memory_budget != "min" and not is_bytes:
        raise ValueError(f'memory_budget: expected a number of bytes, "min" or None, got {memory_budget!r}')


def flatten_rows(inputs: RowInputs, *, shift: bool, return_stats: bool) -> tuple[Rows, Tensor | None]:
    """Returns the rows (one per label, shifted where asked) and the given denominator in their dtype."""
    if return_stats and inputs.task_weights is None:
        raise ValueError(
            "return_stats: needs task_ids and task_weights, got none; pass weights of 1 to count only"
        )
    labels, task_ids, token_weights = inputs.labels, inputs.task_ids, inputs.token_weights
    if shift:
        labels = _shifted(labels, inputs.ignore_index)
        task_ids = None if task_ids is None else _shifted(task_ids, 0)
        token_weights = None if token_weights is None else _shifted(token_weights, 0)
    rows = Rows(
        labels=labels.reshape(-1).contiguous(),
        task_ids=None if task_ids is None else task_ids.reshape(-1).contiguous(),
        task_weights=None
        if inputs.task_weights is None
        else inputs.task_weights.to(inputs.dtype).contiguous(),
        token_weights=None
        if token_weights is None
        else token_weights.to(inputs.dtype).reshape(-1).contiguous(),
        ignore_index=inputs.ignore_index,
        dtype=inputs.dtype,
    )
    _check_range(rows, inputs.n_cols)
    denominator = None if inputs.denominator is None else inputs.denominator.to(inputs.dtype)
    _check_divisible(rows, denominator)
    return rows, denominator


def _shifted(values: Tensor, last: int) -> Tensor:
    shifted = torch.full_like(values, last)
    shifted[..., :-1] = values[..., 1:]
    return shifted


def _check_labels(labels: Tensor, features: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected int64, got {labels.dtype}; use labels.long()")
    if labels.shape != features.shape[:-1]:
        raise ValueError(
            f"labels: expected shape {tuple(features.shape[:-1])}, that of the logits or hidden states "
            f"less its last dimension, got {tuple(labels.shape)}"
        )
    if labels.device != features.device:
        raise ValueError(f"labels: expected a tensor on {features.device}, got one on {labels.device}")


def _check_tasks(labels: Tensor, task_ids: Tensor | None, task_weights: Tensor | None) -> Tensor | None:
    """The task ids in the labels' shape."""
    if (task_ids is None) != (task_weights is None):
        given, missing = ("task_weights", "task_ids") if task_ids is None else ("task_ids", "task_weights")
        raise ValueError(f"{missing}: expected beside {given}, got None; pass both or neither")
    if task_ids is None or task_weights is None:
        return None
    if task_ids.dtype != torch.int64:
        raise TypeError(f"task_ids: expected int64, got {task_ids.dtype}; use task_ids.long()")
    if task_ids.device != labels.device:
        raise ValueError(f"task_ids: expected a tensor on {labels.device}, got one on {task_ids.device}")
    if task_ids.shape == labels.shape:
        return task_ids
    if labels.ndim > 1 and task_ids.shape == labels.shape[:1]:
        return task_ids.view(-1, *[1] * (labels.ndim - 1)).expand(labels.shape)
    raise ValueError(
        f"task_ids: expected the labels' shape {tuple(labels.shape)} or one per sample "
        f"{tuple(labels.shape[:1])}, got {tuple(task_ids.shape)}"
    )


def _check_weights(name: str, weights: Tensor | None, features: Tensor) -> None:
    if weights is None:
        return
    if weights.dtype not in _WEIGHT_DTYPES:
        raise TypeError(
            f"{name}: expected float32 (16-bit floats would round the weights), got {weights.dtype}"
        )
    if weights.device != features.device:
        raise ValueError(f"{name}: expected a tensor on {features.device}, got one on {weights.device}")
    if name == "task_weights" and (weights.ndim != 1 or weights.numel() == 0):
        raise ValueError(f"task_weights: expected shape (N,), got {tuple(weights.shape)}")
    if weights.requires_grad:
        raise NotImplementedError(
            f"{name}: a gradient for it is not implemented in this version; pass {name}.detach()"
        )
    if not weights.is_cuda and not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError(f"{name}: expected finite values >= 0, got {weights.flatten()[:8].tolist()}")


def _check_denominator(denominator: Tensor | None, reduction: str, features: Tensor) -> None:
    if denominator is None:
        return
    if reduction != "weighted_mean":
        raise ValueError(f'denominator: only "weighted_mean" divides by it, got reduction={reduction!r}')
    if (
        not isinstance(denominator, Tensor)
        or denominator.dtype not in _WEIGHT_DTYPES
        or denominator.ndim != 0
    ):
        raise TypeError(f"denominator: expected a 0-d float32 tensor, got {denominator!r}")
    if denominator.device != features.device:
        raise ValueError(
            f"denominator: expected a tensor on {features.device}, got one on {denominator.device}"
        )
    if denominator.requires_grad:
        raise NotImplementedError("denominator: it is a constant of the step; pass denominator.detach()")


def _check_range(rows: Rows, n_cols: int) -> None:
    """Labels in 0..V-1, task ids in 0..N-1 at valid rows: an error on a CPU, a queued assertion on a GPU."""
    valid = rows.labels != rows.ignore_index
    _require(
        ~valid | ((rows.labels >= 0) & (rows.labels < n_cols)), "labels", rows.labels, f"0..{n_cols - 1}"
    )
    if rows.task_ids is not None and rows.task_weights is not None:
        n_tasks = rows.task_weights.numel()
        in_range = (rows.task_ids >= 0) & (rows.task_ids < n_tasks)
        _require(~valid | in_range, "task_ids", rows.task_ids, f"0..{n_tasks - 1}")


def _require(holds: Tensor, name: str, values: Tensor, expected: str) -> None:
    if holds.is_cuda:
        torch._assert_async(holds.all(), f"{name}: expected values in {expected} at valid rows")
    elif not bool(holds.all()):
        row = int((~holds).nonzero()[0])
        raise ValueError(
            f"{name}: expected values in {expected} at valid rows, got {int(values[row])} in row {row}"
        )


def _check_divisible(rows: Rows, denominator: Tensor | None) -> None:
    """A given denominator is finite, and > 0 unless no row has any weight."""
    if denominator is None:
        return
    holds = torch.isfinite(denominator) & (
        (denominator > 0) | ((denominator == 0) & (rows.weights == 0).all())
    )
    if holds.is_cuda:
        torch._assert_async(holds, "denominator: expected a finite value > 0")
    elif not bool(holds):
        raise ValueError(f"denominator: expected a finite value > 0, got {denominator.item()}")
