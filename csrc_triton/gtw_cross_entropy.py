"""The Triton kernel: cross-entropy, task weight, denominator, gradient in one launch, a row per program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import row_launch
from csrc_triton.rows import Rows


@triton.jit
def _log1p(x):
    """log(1 + x) for x >= 0 to full relative precision: the rounding of 1 + x is divided out again."""
    rounded = 1.0 + x
    step = rounded - 1.0
    return tl.where(step == 0.0, x, tl.log(rounded) * (x / tl.where(step == 0.0, 1.0, step)))


@triton.jit
def _row_weight(
    row,
    label,
    task_ids_ptr,
    task_weights_ptr,
    token_weights_ptr,
    ignore_index,
    HAS_TASKS: tl.constexpr,
    HAS_TOKEN_WEIGHTS: tl.constexpr,
):
    """w_r = token_weights_r * task_weights[task_ids_r], 0 where the label is ignored."""
    is_valid = label != ignore_index
    weight = tl.where(is_valid, 1.0, 0.0)
    if HAS_TASKS:
        task_id = tl.load(task_ids_ptr + row, mask=is_valid, other=0)
        weight *= tl.load(task_weights_ptr + task_id, mask=is_valid, other=0.0)
    if HAS_TOKEN_WEIGHTS:
        weight *= tl.load(token_weights_ptr + row, mask=is_valid, other=0.0)
    return weight


@triton.jit
def _gtw_cross_entropy_fwd_kernel(
    logits_ptr,
    logits_stride_row,
    gradient_ptr,
    gradient_stride_row,
    losses_ptr,
    correct_ptr,
    labels_ptr,
    task_ids_ptr,
    task_weights_ptr,
    token_weights_ptr,
    denominator_ptr,
    n_cols,
    ignore_index,
    HAS_TASKS: tl.constexpr,
    HAS_TOKEN_WEIGHTS: tl.constexpr,
    HAS_DENOMINATOR: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
    HAS_CORRECT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes.
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    weight = _row_weight(
        row,
        label,
        task_ids_ptr,
        task_weights_ptr,
        token_weights_ptr,
        ignore_index,
        HAS_TASKS,
        HAS_TOKEN_WEIGHTS,
    )
    logits_row_ptr = logits_ptr + row * logits_stride_row
    gradient_row_ptr = gradient_ptr + row * gradient_stride_row
    lanes = tl.arange(0, BLOCK)
    n_blocks = tl.cdiv(n_cols, BLOCK)

    if weight == 0.0:
        tl.store(losses_ptr + row, 0.0)
        if HAS_CORRECT:
            tl.store(correct_ptr + row, 0)
        if HAS_GRADIENT:
            for block in range(0, n_blocks):
                cols = block * BLOCK + lanes
                zeros = tl.zeros([BLOCK], dtype=gradient_ptr.dtype.element_ty)
                tl.store(gradient_row_ptr + cols, zeros, mask=cols < n_cols)
        return

    # A label outside the vocabulary must not become a plausible number: NaN, beside the launcher's assertion.
    in_range = (label >= 0) & (label < n_cols)
    label_logit = tl.load(logits_row_ptr + label, mask=in_range, other=float("nan")).to(tl.float32)

    # Lane-wise online softmax; the label's own term stays out of the sum (its gradient is minus the others').
    lane_max = tl.full([BLOCK], float("-inf"), tl.float32)
    lane_sum = tl.zeros([BLOCK], tl.float32)
    lane_beaten = tl.zeros([BLOCK], tl.int32)
    for block in range(0, n_blocks):
        cols = block * BLOCK + lanes
        z = tl.load(logits_row_ptr + cols, mask=cols < n_cols, other=float("-inf")).to(tl.float32)
        new_max = tl.maximum(lane_max, z)
        shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        lane_sum = lane_sum * tl.exp(lane_max - shift) + tl.where(cols == label, 0.0, tl.exp(z - shift))
        lane_max = new_max
        if HAS_CORRECT:
            is_beaten = tl.where(cols < label, z >= label_logit, (z > label_logit) & (cols < n_cols))
            lane_beaten += is_beaten.to(tl.int32)
    largest = tl.max(lane_max, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    others = tl.sum(lane_sum * tl.exp(lane_max - shift), 0)
    total = others + tl.exp(label_logit - shift)
    loss = (largest - label_logit) + tl.where(label_logit == largest, _log1p(others), tl.log(total))
    tl.store(losses_ptr + row, loss)
    if HAS_CORRECT:
        is_correct = (tl.sum(lane_beaten, 0) == 0) & (loss == loss)
        tl.store(correct_ptr + row, is_correct.to(tl.int8))

    if HAS_GRADIENT:
        scale = weight
        if HAS_DENOMINATOR:
            denominator = tl.load(denominator_ptr)
            scale = tl.where(denominator > 0.0, weight / denominator, 0.0)
        factor = scale / total
        # Backwards: the blocks read last are the ones still in cache.
        for block in range(0, n_blocks):
            cols = (n_blocks - 1 - block) * BLOCK + lanes
            is_col = cols < n_cols
            z = tl.load(logits_row_ptr + cols, mask=is_col, other=float("-inf")).to(tl.float32)
            gradient = tl.where(cols == label, -others, tl.exp(z - shift)) * factor
            tl.store(gradient_row_ptr + cols, gradient.to(gradient_ptr.dtype.element_ty), mask=is_col)


@triton.jit
def _scale_rows_kernel(
    gradient_ptr, gradient_stride_row, factor_ptr, factor_stride_row, n_cols, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    factor = tl.load(factor_ptr + row * factor_stride_row).to(tl.float32)
    # The usual upstream gradient: decided on the device, so that the host need not wait for it.
    if factor == 1.0:
        return
    lanes = tl.arange(0, BLOCK)
    for block in range(0, tl.cdiv(n_cols, BLOCK)):
        cols = block * BLOCK + lanes
        pointers = gradient_ptr + row * gradient_stride_row + cols
        gradient = tl.load(pointers, mask=cols < n_cols, other=0.0).to(tl.float32)
        tl.store(pointers, (gradient * factor).to(gradient_ptr.dtype.element_ty), mask=cols < n_cols)


def gtw_cross_entropy_forward(
    logits: Tensor, rows: Rows, denominator: Tensor | None, *, gradient: Tensor | None, want_correct: bool
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,) float32, top-1 correctness (R,) bool), fills `gradient`; rows of weight 0 are not read.

    Args:
        logits: (R, V) float16, bfloat16 or float32, unit column stride, any row stride.
        rows: labels and weights of the R rows, float32.
        denominator: 0-d float32, or None to leave the gradient undivided.
        gradient: (R, V) of the logits' dtype to receive w_r / denominator * dc_r/dlogits; it may be `logits`
            itself. None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted; all False otherwise.
    """
    n_rows, n_cols = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    correct = (torch.empty if want_correct else torch.zeros)(n_rows, dtype=torch.int8, device=logits.device)
    if n_rows == 0:
        return losses, correct.bool()
    target = logits if gradient is None else gradient
    launch = row_launch(n_cols)
    _gtw_cross_entropy_fwd_kernel[(n_rows,)](
        logits,
        logits.stride(0),
        target,
        target.stride(0),
        losses,
        correct,
        rows.labels,
        rows.labels if rows.task_ids is None else rows.task_ids,
        losses if rows.task_weights is None else rows.task_weights,
        losses if rows.token_weights is None else rows.token_weights,
        losses if denominator is None else denominator,
        n_cols,
        rows.ignore_index,
        HAS_TASKS=rows.task_ids is not None,
        HAS_TOKEN_WEIGHTS=rows.token_weights is not None,
        HAS_DENOMINATOR=denominator is not None,
        HAS_GRADIENT=gradient is not None,
        HAS_CORRECT=want_correct,
        BLOCK=launch.block,
        num_warps=launch.num_warps,
    )
    return losses, correct.bool()


def scale_rows_(gradient: Tensor, factor: Tensor) -> Tensor:
    """Multiplies `gradient` (R, V) in place by `factor`, 0-d or (R,); a factor of 1 costs no pass."""
    n_rows, n_cols = gradient.shape
    if n_rows:
        launch = row_launch(n_cols)
        stride = 0 if factor.ndim == 0 else factor.stride(0)
        _scale_rows_kernel[(n_rows,)](
            gradient,
            gradient.stride(0),
            factor,
            stride,
            n_cols,
            BLOCK=launch.block,
            num_warps=launch.num_warps,
        )
    return gradient
