"""Triton kernels over rows alone: their weights before the loss, the sums over tasks after it.

Each takes one launch where torch takes one per operation; a row has a few bytes here and 2 V in the loss.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import compile_options, on_gpu_of
from csrc_triton.rows import Rows, most_of_a_row
from csrc_triton.task_stats import RowSums

_BLOCK, _WARPS = 1024, 4
# Few programs sum up all rows: wide ones, so that they turn over seldom.
_SUM_BLOCK, _SUM_WARPS = 4096, 16


@triton.jit
def is_weight(values):
    """Whether finite and >= 0; a NaN is not."""
    return (values >= 0.0) & (values < float("inf"))


@triton.jit
def _weigh_rows_kernel(
    weights_ptr,
    mass_ptr,
    is_right_ptr,
    labels_ptr,
    task_ids_ptr,
    task_weights_ptr,
    token_weights_ptr,
    class_weights_ptr,
    denominator_ptr,
    n_rows,
    n_cols,
    n_tasks,
    ignore_index,
    most,
    HAS_TASKS: tl.constexpr,
    HAS_TOKEN_WEIGHTS: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_DENOMINATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < n_rows
    label = tl.load(labels_ptr + rows, mask=is_row, other=0)
    is_valid = is_row & (label != ignore_index)
    is_bad = is_valid & ((label < 0) | (label >= n_cols))
    weight = tl.where(is_valid, 1.0, 0.0)
    if HAS_TASKS:
        task_id = tl.load(task_ids_ptr + rows, mask=is_valid, other=0)
        has_task = is_valid & (task_id >= 0) & (task_id < n_tasks)
        task_weight = tl.load(task_weights_ptr + task_id, mask=has_task, other=0.0)
        # Each factor is looked at: a product of two wrong ones may be right.
        is_bad |= is_valid & ((has_task & is_weight(task_weight)) == 0)
        weight *= task_weight
    if HAS_TOKEN_WEIGHTS:
        token_weight = tl.load(token_weights_ptr + rows, mask=is_valid, other=0.0)
        is_bad |= is_valid & (is_weight(token_weight) == 0)
        # A row of weight 0 is not trained on: none becomes one by rounding.
        is_bad |= (weight > 0.0) & (token_weight > 0.0) & (weight * token_weight == 0.0)
        weight *= token_weight
    is_bad |= weight > most
    tl.store(weights_ptr + rows, weight, mask=is_row)
    if HAS_CLASS_WEIGHTS:
        in_range = is_valid & (label >= 0) & (label < n_cols)
        class_weight = tl.load(class_weights_ptr + label, mask=in_range, other=0.0)
        is_bad |= is_weight(class_weight) == 0
        is_bad |= weight * class_weight > most
        is_bad |= (weight > 0.0) & (class_weight > 0.0) & (weight * class_weight == 0.0)
        tl.store(mass_ptr + rows, weight * class_weight, mask=is_row)
    if HAS_DENOMINATOR:
        denominator = tl.load(denominator_ptr)
        # Nothing to divide is the only reason for a denominator of 0.
        denominators = denominator + tl.zeros([BLOCK], tl.float32)
        may_divide = (denominators > 0.0) | ((denominators == 0.0) & (weight == 0.0))
        may_divide &= denominators < float("inf")
        is_bad |= is_row & (may_divide == 0)
    if tl.max(is_bad.to(tl.int32), 0) != 0:
        tl.store(is_right_ptr, 0)


@triton.jit
def _sum_rows_kernel(
    loss_ptr,
    loss_sum_ptr,
    mass_sum_ptr,
    token_count_ptr,
    correct_count_ptr,
    losses_ptr,
    correct_ptr,
    weights_ptr,
    labels_ptr,
    task_ids_ptr,
    token_weights_ptr,
    class_weights_ptr,
    divisor_ptr,
    n_rows,
    n_tasks,
    ignore_index,
    HAS_TOKEN_WEIGHTS: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_DIVISOR: tl.constexpr,
    READS_UNWEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Program t < N sums the rows of task t, program N all rows: the same order every time, no atomics.
    task = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    weighted = tl.zeros([BLOCK], tl.float32)
    loss_sum = tl.zeros([BLOCK], tl.float32)
    mass_sum = tl.zeros([BLOCK], tl.float32)
    # A lane's part of fewer than 2^31 rows.
    token_count = tl.zeros([BLOCK], tl.int32)
    correct_count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, n_rows, BLOCK):
        rows = start + lanes
        is_row = rows < n_rows
        weight = tl.load(weights_ptr + rows, mask=is_row, other=0.0)
        loss = tl.load(losses_ptr + rows, mask=is_row, other=0.0)
        if task == n_tasks:
            weighted += tl.where(weight == 0.0, 0.0, weight * loss)
        else:
            label = tl.load(labels_ptr + rows, mask=is_row, other=ignore_index)
            is_read = weight != 0.0
            if READS_UNWEIGHTED:
                is_read = label != ignore_index
            is_mine = is_read & (tl.load(task_ids_ptr + rows, mask=is_row & is_read, other=-1) == task)
            token_weight = tl.where(is_mine, 1.0, 0.0)
            if HAS_TOKEN_WEIGHTS:
                token_weight *= tl.load(token_weights_ptr + rows, mask=is_mine, other=0.0)
            # A row of another task may hold NaN.
            loss_sum += tl.where(is_mine, token_weight * loss, 0.0)
            if HAS_CLASS_WEIGHTS:
                token_weight *= tl.load(class_weights_ptr + label, mask=is_mine, other=0.0)
            mass_sum += token_weight
            token_count += is_mine.to(tl.int32)
            correct_count += tl.load(correct_ptr + rows, mask=is_mine, other=0).to(tl.int32)
    if task == n_tasks:
        loss = tl.sum(weighted, 0)
        if HAS_DIVISOR:
            divisor = tl.load(divisor_ptr)
            # Rounded as torch does; the operator / is an approximation on a GPU.
            loss = tl.where(divisor > 0.0, tl.div_rn(loss, divisor), 0.0)
        tl.store(loss_ptr, loss)
    else:
        tl.store(loss_sum_ptr + task, tl.sum(loss_sum, 0))
        tl.store(mass_sum_ptr + task, tl.sum(mass_sum, 0))
        tl.store(token_count_ptr + task, tl.sum(token_count, 0).to(tl.int64))
        tl.store(correct_count_ptr + task, tl.sum(correct_count, 0).to(tl.int64))


def weigh_rows(rows: Rows, denominator: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns w_r (R,), w_r cw[y_r] (R,) and a 0-d bool: whether all that the rows bring is in range.

    Out of range are labels outside 0..V-1 and task ids outside 0..N-1 at valid rows, weights that are not
    finite and >= 0 (of class weights, those of the labels), products of weights > 0 that float32 makes 0,
    w_r and w_r cw[y_r] above `most_of_a_row`, a denominator (0-d float32) that is not finite and > 0 while a
    weight is.
    """
    n_rows = rows.labels.numel()
    weights = torch.empty(n_rows, dtype=torch.float32, device=rows.labels.device)
    mass = weights if rows.class_weights is None else torch.empty_like(weights)
    is_right = torch.ones((), dtype=torch.bool, device=weights.device)
    if n_rows:
        with on_gpu_of(weights):
            _weigh_rows_kernel[(triton.cdiv(n_rows, _BLOCK),)](
                weights,
                mass,
                is_right.view(torch.int8),
                rows.labels,
                rows.labels if rows.task_ids is None else rows.task_ids,
                weights if rows.task_weights is None else rows.task_weights,
                weights if rows.token_weights is None else rows.token_weights,
                weights if rows.class_weights is None else rows.class_weights,
                weights if denominator is None else denominator,
                n_rows,
                rows.n_cols,
                rows.n_tasks,
                rows.ignore_index,
                most_of_a_row(n_rows, weights.dtype),
                HAS_TASKS=rows.task_ids is not None,
                HAS_TOKEN_WEIGHTS=rows.token_weights is not None,
                HAS_CLASS_WEIGHTS=rows.class_weights is not None,
                HAS_DENOMINATOR=denominator is not None,
                BLOCK=_BLOCK,
                **compile_options(_WARPS),
            )
    return weights, mass, is_right


def sum_rows(
    losses: Tensor,
    correct: Tensor,
    weights: Tensor,
    rows: Rows,
    divisor: Tensor | None,
    *,
    reads_unweighted: bool,
) -> RowSums:
    """Returns the sums of c (R,) float32 and correct (R,) bool over the rows that were read.

    Args:
        losses: c (R,) float32.
        correct: (R,) bool.
        weights: (R,) float32 w_r.
        rows: the rows.
        divisor: 0-d float32, what the sum of w_r c_r is divided by, or None.
        reads_unweighted: whether rows of weight 0 were read.
    """
    n_tasks, device = rows.n_tasks, losses.device
    sums = RowSums(
        loss=torch.empty((), dtype=torch.float32, device=device),
        loss_sum=torch.empty(n_tasks, dtype=torch.float32, device=device),
        mass_sum=torch.empty(n_tasks, dtype=torch.float32, device=device),
        token_count=torch.empty(n_tasks, dtype=torch.int64, device=device),
        correct_count=torch.empty(n_tasks, dtype=torch.int64, device=device),
    )
    with on_gpu_of(losses):
        _sum_rows_kernel[(n_tasks + 1,)](
            sums.loss,
            sums.loss_sum,
            sums.mass_sum,
            sums.token_count,
            sums.correct_count,
            losses,
            correct.view(torch.int8),
            weights,
            rows.labels,
            rows.labels if rows.task_ids is None else rows.task_ids,
            weights if rows.token_weights is None else rows.token_weights,
            weights if rows.class_weights is None else rows.class_weights,
            weights if divisor is None else divisor,
            losses.numel(),
            n_tasks,
            rows.ignore_index,
            HAS_TOKEN_WEIGHTS=rows.token_weights is not None,
            HAS_CLASS_WEIGHTS=rows.class_weights is not None,
            HAS_DIVISOR=divisor is not None,
            READS_UNWEIGHTED=reads_unweighted,
            BLOCK=_SUM_BLOCK,
            **compile_options(_SUM_WARPS),
        )
    return sums
