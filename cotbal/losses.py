"""The public losses: GTW cross-entropy on logits, and on hidden states with the vocabulary product inside."""

from typing import NamedTuple

import torch
from torch import Tensor

from cotbal._inputs import RowInputs, check_linear, check_options, flatten_rows
from cotbal.ops import GTWCrossEntropy, LinearGTWCrossEntropy, LossPlan, choose_implementation
from csrc_triton import reference
from csrc_triton.rows import Rows


class TaskStats(NamedTuple):
    """Per-task sums of one call, detached, each (N,); they come from the same pass as the loss.

    Attributes:
        loss_sum: float32 (float64 for float64 logits), sum of token_weights_r c_r over the task's rows.
        token_count: int64, the number of those rows.
        correct_count: int64, how many of them have their label as the lowest index of the largest logit.

    A row of weight 0 is not read, so it is in none of the three.
    """

    loss_sum: Tensor
    token_count: Tensor
    correct_count: Tensor


def gtw_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | None = None,
    *,
    token_weights: Tensor | None = None,
    denominator: Tensor | None = None,
    reduction: str = "weighted_mean",
    ignore_index: int = -100,
    shift: bool = False,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    class_weights: Tensor | None = None,
    inplace: bool = False,
    return_stats: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, TaskStats]:
    """Returns the GTW loss (Eq. 2) sum_r w_r c_r / sum_r w_r, w_r = token_weights_r task_weights[task_ids_r].

    Args:
        logits: (..., V) float16, bfloat16, float32 or float64.
        labels: (...) int64 in 0..V-1, or `ignore_index` where the row is not valid.
        task_ids: int64 in 0..N-1, of the labels' shape or one per leading sample (B,).
        task_weights: (N,) float32 or float64, finite and >= 0. Without it every weight is 1 (Eq. 1).
        token_weights: of the labels' shape, float32 or float64, finite and >= 0.
        denominator: 0-d float32 or float64 tensor in place of sum_r w_r: that of the whole optimizer step.
        reduction: "weighted_mean", "sum" (the numerator) or "none" (each w_r c_r, in the labels' shape).
        ignore_index: the label of a row that counts nowhere.
        shift: row t takes the label, task id and token weight of position t + 1 (causal language models).
        label_smoothing: not implemented yet.
        z_loss: not implemented yet.
        softcap: not implemented yet.
        class_weights: not implemented yet.
        inplace: not implemented yet.
        return_stats: also return TaskStats; needs `task_weights`.
        impl: "auto", "triton", "torch" or "reference".

    Returns:
        The loss, 0-d (or the labels' shape for "none"), float32; float64 for float64 logits. Exactly 0,
        with its graph, where nothing is valid. With `return_stats` the pair (loss, TaskStats).

    Raises:
        ValueError: shapes, values or options that cannot be right; on CUDA, labels and task ids out of range
            are caught by an assertion on the device.
        TypeError: a wrong dtype.
        NotImplementedError: an option that this version does not carry.

    Example:
        >>> import torch, cotbal
        >>> logits = torch.randn(2, 5, 11, requires_grad=True)
        >>> labels = torch.randint(11, (2, 5))
        >>> task_ids = torch.tensor([0, 1])  # one task per sample
        >>> loss = cotbal.gtw_cross_entropy(logits, labels, task_ids, torch.tensor([0.8, 1.2]))
        >>> loss.backward()
    """
    check_options(
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        class_weights=class_weights,
        inplace=inplace,
    )
    inputs = RowInputs.of(
        logits,
        logits.shape[-1],
        labels,
        task_ids,
        task_weights,
        token_weights,
        denominator,
        ignore_index,
        reduction,
    )
    impl = choose_implementation(impl, logits)
    rows, denominator = flatten_rows(inputs, shift=shift, return_stats=return_stats)
    flat = logits.reshape(-1, logits.shape[-1])
    if impl == "reference":
        return _reference(flat, rows, denominator, inputs, return_stats)
    flat = flat if flat.stride(-1) == 1 else flat.contiguous()
    weights = rows.weights
    plan = LossPlan(impl, reduction, return_stats, torch.is_grad_enabled())
    divisor = _divisor(weights, denominator, reduction)
    loss, losses, correct = GTWCrossEntropy.apply(flat, rows, weights, divisor, plan)
    return _finish(loss, losses, correct, weights, rows, inputs, return_stats)


def linear_gtw_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    task_ids: Tensor | None = None,
    task_weights: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    token_weights: Tensor | None = None,
    denominator: Tensor | None = None,
    reduction: str = "weighted_mean",
    ignore_index: int = -100,
    shift: bool = False,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    class_weights: Tensor | None = None,
    return_stats: bool = False,
    impl: str = "auto",
    memory_budget: int | str | None = None,
    valid_count: int | None = None,
    accumulate_weight_grad: bool = False,
) -> Tensor | tuple[Tensor, TaskStats]:
    """Returns `gtw_cross_entropy(hidden @ weight.T, ...)` without ever holding all the logits.

    Rows that are not valid are left out before the product; the others go through it in chunks, and both
    gradients are formed on the way, so the backward pass only scales them. Under autocast the product is in
    autocast's dtype.

    Args:
        hidden: (..., D) float16, bfloat16, float32 or float64.
        weight: (V, D) of the same dtype: the head's `lm_head.weight`.
        labels: (...) int64, as are the other arguments in `gtw_cross_entropy`.
        task_ids: see `gtw_cross_entropy`.
        task_weights: see `gtw_cross_entropy`.
        bias: not implemented yet.
        token_weights: see `gtw_cross_entropy`.
        denominator: see `gtw_cross_entropy`.
        reduction: "weighted_mean" or "sum"; "none" is not implemented yet.
        ignore_index: see `gtw_cross_entropy`.
        shift: see `gtw_cross_entropy`.
        label_smoothing: not implemented yet.
        z_loss: not implemented yet.
        softcap: not implemented yet.
        class_weights: not implemented yet.
        return_stats: also return TaskStats; needs `task_weights`.
        impl: "auto", "triton", "torch" or "reference".
        memory_budget: bytes of logits alive at once, "min" (64 rows), or None (CPU 128 MiB, GPU 1 GiB).
        valid_count: not implemented yet.
        accumulate_weight_grad: not implemented yet.

    Returns:
        The loss, or the pair (loss, TaskStats), as `gtw_cross_entropy`.

    Raises:
        ValueError: as `gtw_cross_entropy`.
        TypeError: as `gtw_cross_entropy`.
        NotImplementedError: as `gtw_cross_entropy`.

    Example:
        >>> import torch, cotbal
        >>> hidden, head = torch.randn(2, 5, 8, requires_grad=True), torch.nn.Linear(8, 11, bias=False)
        >>> labels = torch.randint(11, (2, 5))
        >>> loss = cotbal.linear_gtw_cross_entropy(hidden, head.weight, labels, shift=True)
        >>> loss.backward()
    """
    check_options(
        bias=bias,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        class_weights=class_weights,
        valid_count=valid_count,
        accumulate_weight_grad=accumulate_weight_grad,
    )
    hidden, weight = _autocast(hidden), _autocast(weight)
    check_linear(hidden, weight, reduction, memory_budget)
    inputs = RowInputs.of(
        hidden,
        weight.shape[0],
        labels,
        task_ids,
        task_weights,
        token_weights,
        denominator,
        ignore_index,
        reduction,
    )
    impl = choose_implementation(impl, hidden)
    rows, denominator = flatten_rows(inputs, shift=shift, return_stats=return_stats)
    flat = hidden.reshape(-1, hidden.shape[-1])
    if impl == "reference":
        return _reference(flat @ weight.t(), rows, denominator, inputs, return_stats)
    weights = rows.weights
    plan = LossPlan(impl, reduction, return_stats, torch.is_grad_enabled(), memory_budget)
    divisor = _divisor(weights, denominator, reduction)
    loss, losses, correct = LinearGTWCrossEntropy.apply(flat, weight, rows, weights, divisor, plan)
    return _finish(loss, losses, correct, weights, rows, inputs, return_stats)


def _divisor(weights: Tensor, denominator: Tensor | None, reduction: str) -> Tensor | None:
    if reduction != "weighted_mean":
        return None
    return weights.sum() if denominator is None else denominator


def _finish(
    loss: Tensor,
    losses: Tensor,
    correct: Tensor,
    weights: Tensor,
    rows: Rows,
    inputs: RowInputs,
    return_stats: bool,
) -> Tensor | tuple[Tensor, TaskStats]:
    loss = loss.reshape(inputs.labels.shape) if inputs.reduction == "none" else loss
    if not return_stats:
        return loss
    assert rows.task_ids is not None
    assert rows.task_weights is not None
    counted = losses if rows.token_weights is None else losses * rows.token_weights
    columns = torch.arange(rows.task_weights.numel(), device=weights.device)
    # A (R, N) mask and sums along it: the same bits every time, where scattered additions on a GPU are not.
    in_task = (rows.task_ids[:, None] == columns) & (weights != 0)[:, None]
    return loss, TaskStats(
        torch.where(in_task, counted[:, None], torch.zeros_like(counted[:, None])).sum(0),
        in_task.sum(0),
        (in_task & correct[:, None]).sum(0),
    )


def _reference(
    logits: Tensor, rows: Rows, denominator: Tensor | None, inputs: RowInputs, return_stats: bool
) -> Tensor | tuple[Tensor, TaskStats]:
    weights = reference.row_weights(
        rows.labels, rows.task_ids, rows.task_weights, rows.token_weights, rows.ignore_index, rows.dtype
    )
    losses = reference.row_losses(logits, rows.labels, weights)
    loss = reference.reduce_losses(losses, weights, denominator, inputs.reduction)
    loss = loss.reshape(inputs.labels.shape) if inputs.reduction == "none" else loss
    if not return_stats:
        return loss
    assert rows.task_ids is not None
    assert rows.task_weights is not None
    read, n_tasks = weights != 0, rows.task_weights.numel()
    correct = reference.top1_correct(logits, rows.labels, weights)
    counted = losses.detach() if rows.token_weights is None else losses.detach() * rows.token_weights
    return loss, TaskStats(
        reference.task_sums(counted, rows.task_ids, read, n_tasks),
        reference.task_sums(torch.ones_like(rows.labels), rows.task_ids, read, n_tasks),
        reference.task_sums(correct.long(), rows.task_ids, read, n_tasks),
    )


def _autocast(tensor: Tensor) -> Tensor:
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype == torch.float32:
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor
