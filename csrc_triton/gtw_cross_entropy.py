"""The Triton kernel: cross-entropy, weight, denominator and gradient in one launch, a row per program.

A row that fits into a block is read once, a longer one twice; its gradient is written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import row_launch
from csrc_triton.options import LossOptions
from csrc_triton.row_math import (
    finite_or_zero,
    is_beating,
    load_class_weights,
    load_logits,
    row_loss,
    row_statistics,
    smoothing_terms,
    softcapped,
    store_gradient,
    store_zeros,
)


@triton.jit
def _gtw_cross_entropy_fwd_kernel(
    logits_ptr,
    logits_stride_row,
    gradient_ptr,
    gradient_stride_row,
    losses_ptr,
    correct_ptr,
    labels_ptr,
    weights_ptr,
    denominator_ptr,
    class_weights_ptr,
    n_cols,
    ignore_index,
    label_smoothing,
    z_loss,
    softcap,
    HAS_DENOMINATOR: tl.constexpr,
    HAS_GRADIENT: tl.constexpr,
    HAS_CORRECT: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_Z_LOSS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    READS_UNWEIGHTED: tl.constexpr,
    ONE_READ: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes.
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    weight = tl.load(weights_ptr + row)
    logits_row_ptr = logits_ptr + row * logits_stride_row
    gradient_row_ptr = gradient_ptr + row * gradient_stride_row
    is_read = weight != 0.0
    if READS_UNWEIGHTED:
        is_read = label != ignore_index
    if not is_read:
        tl.store(losses_ptr + row, 0.0)
        if HAS_CORRECT:
            tl.store(correct_ptr + row, 0)
        if HAS_GRADIENT:
            store_zeros(gradient_row_ptr, n_cols, BLOCK)
        return

    # A label outside the vocabulary must not become a plausible number: NaN, beside the range check.
    in_range = (label >= 0) & (label < n_cols)
    label_x = tl.load(logits_row_ptr + label, mask=in_range, other=float("nan")).to(tl.float32)
    label_z = softcapped(label_x, 0, 1, softcap, HAS_SOFTCAP)
    pivot = finite_or_zero(label_z)
    label_class_weight = 1.0
    if HAS_CLASS_WEIGHTS:
        label_class_weight = tl.load(class_weights_ptr + label, mask=in_range, other=0.0)

    cols = tl.arange(0, BLOCK)
    if ONE_READ:
        x = load_logits(logits_row_ptr, cols, n_cols)
        z = softcapped(x, cols, n_cols, softcap, HAS_SOFTCAP)
        largest = tl.max(z, 0)
        others = tl.sum(tl.where(cols == label, 0.0, tl.exp(z - finite_or_zero(largest))), 0)
        smooth = 0.0
        mass = 0.0
        beaten = 0
        if HAS_SMOOTHING:
            class_weights = load_class_weights(class_weights_ptr, cols, n_cols, HAS_CLASS_WEIGHTS)
            smooth = tl.sum(smoothing_terms(z, pivot, class_weights), 0)
            mass = tl.sum(class_weights, 0)
        if HAS_CORRECT:
            beaten = tl.sum(is_beating(x, label_x, cols, label, n_cols), 0)
    else:
        largest, others, smooth, mass, beaten = row_statistics(
            logits_row_ptr,
            label,
            label_x,
            pivot,
            class_weights_ptr,
            n_cols,
            softcap,
            HAS_CORRECT,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            BLOCK,
        )
    loss, label_exp, kept, rest = row_loss(
        label_z,
        largest,
        others,
        smooth,
        mass,
        label_class_weight,
        n_cols,
        label_smoothing,
        z_loss,
        HAS_SMOOTHING,
        HAS_Z_LOSS,
        HAS_CLASS_WEIGHTS,
    )
    tl.store(losses_ptr + row, loss)
    total = others + label_exp
    if HAS_CORRECT:
        is_correct = (beaten == 0) & (total == total)
        tl.store(correct_ptr + row, is_correct.to(tl.int8))

    if HAS_GRADIENT:
        scale = weight
        if HAS_DENOMINATOR:
            denominator = tl.load(denominator_ptr)
            scale = tl.where(denominator > 0.0, weight / denominator, 0.0)
        shift = finite_or_zero(largest)
        per_exp = scale / total
        factor = per_exp * (kept + rest)
        label_value = per_exp * (rest * label_exp - kept * others)
        smoothing_factor = scale * (label_smoothing / n_cols)
        if ONE_READ:
            store_gradient(
                gradient_row_ptr,
                x,
                cols,
                label,
                n_cols,
                shift,
                scale,
                factor,
                label_value,
                smoothing_factor,
                class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
        else:
            n_blocks = tl.cdiv(n_cols, BLOCK)
            # Backwards: the blocks read last are the ones still in cache.
            for block in range(0, n_blocks):
                block_cols = (n_blocks - 1 - block) * BLOCK + cols
                store_gradient(
                    gradient_row_ptr,
                    load_logits(logits_row_ptr, block_cols, n_cols),
                    block_cols,
                    label,
                    n_cols,
                    shift,
                    scale,
                    factor,
                    label_value,
                    smoothing_factor,
                    class_weights_ptr,
                    softcap,
                    HAS_SMOOTHING,
                    HAS_SOFTCAP,
                    HAS_CLASS_WEIGHTS,
                )


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
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    denominator: Tensor | None,
    options: LossOptions,
    *,
    gradient: Tensor | None,
    want_correct: bool,
    ignore_index: int,
    reads_unweighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,) float32, top-1 correctness (R,) bool) and fills `gradient`; no synchronisation.

    Args:
        logits: (R, V) float16, bfloat16 or float32, unit column stride, any row stride.
        labels: (R,) int64, in 0..V-1 or `ignore_index`.
        weights: (R,) float32 w_r; a row of weight 0 is not read, its loss and its gradient are 0.
        denominator: 0-d float32, or None to leave the gradient undivided.
        options: what a row's loss is; class weights in float32.
        gradient: (R, V) of the logits' dtype to receive w_r / denominator * dc_r/dlogits; it may be `logits`
            itself. None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted; all False otherwise.
        ignore_index: the label of a row that is not valid.
        reads_unweighted: read every row whose label is not `ignore_index`; the gradient of one whose weight
            is 0 is 0.
    """
    n_rows, n_cols = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    correct = (torch.empty if want_correct else torch.zeros)(n_rows, dtype=torch.int8, device=logits.device)
    if n_rows == 0:
        return losses, correct.view(torch.bool)
    target = logits if gradient is None else gradient
    launch = row_launch(n_cols)
    _gtw_cross_entropy_fwd_kernel[(n_rows,)](
        logits,
        logits.stride(0),
        target,
        target.stride(0),
        losses,
        correct,
        labels,
        weights,
        losses if denominator is None else denominator,
        losses if options.class_weights is None else options.class_weights,
        n_cols,
        ignore_index,
        options.label_smoothing,
        options.z_loss,
        options.softcap or 1.0,
        HAS_DENOMINATOR=denominator is not None,
        HAS_GRADIENT=gradient is not None,
        HAS_CORRECT=want_correct,
        HAS_SMOOTHING=options.label_smoothing != 0,
        HAS_Z_LOSS=options.z_loss != 0,
        HAS_SOFTCAP=options.softcap is not None,
        HAS_CLASS_WEIGHTS=options.class_weights is not None,
        READS_UNWEIGHTED=reads_unweighted,
        ONE_READ=n_cols <= launch.block,
        BLOCK=launch.block,
        num_warps=launch.num_warps,
    )
    return losses, correct.view(torch.bool)


def scale_rows_(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies `gradient` (R, V) in place by `factor`, 0-d or (R,); a factor of 1 costs no pass."""
    n_rows, n_cols = gradient.shape
    if n_rows:
        launch = row_launch(n_cols)
        _scale_rows_kernel[(n_rows,)](
            gradient,
            gradient.stride(0),
            factor,
            0 if factor.ndim == 0 else factor.stride(0),
            n_cols,
            BLOCK=launch.block,
            num_warps=launch.num_warps,
        )
