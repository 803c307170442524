"""The Triton kernels of the loss where each rank holds a piece of the vocabulary, a row per program.

One pass sums up the columns of the piece; a second one, once the ranks have told each other, writes their
gradient: 6 bytes per logit in 16 bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import Launch, compile_options, on_gpu_of
from csrc_triton.options import LossOptions
from csrc_triton.row_math import (
    finite_or_zero,
    gradient_scale,
    is_beaten,
    label_smoothing_term,
    reads_row,
    row_loss,
    row_statistics,
    softcap_slope,
    softcapped,
    store_gradient_in_steps,
    store_zeros,
)
from csrc_triton.row_parts import write_label
from csrc_triton.vocab_pieces import N_STATISTICS, Piece

# Two passes over any number of columns; the options need more registers, which would spill.
PLAIN = Launch(8192, 16)
WITH_OPTIONS = Launch(2048, 4)


@triton.jit
def _own_column(label, start, n_cols):
    """(the label's column in the piece, -1 where it is elsewhere; whether it is in the piece)."""
    is_own = (label >= start) & (label < start + n_cols)
    return tl.where(is_own, label - start, -1).to(tl.int32), is_own


@triton.jit
def _piece_statistics_fwd_kernel(
    logits_ptr,
    logits_stride_row,
    statistics_ptr,
    labels_ptr,
    label_x_ptr,
    weights_ptr,
    class_weights_ptr,
    n_rows,
    n_cols,
    start,
    ignore_index,
    softcap,
    HAS_CORRECT: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    READS_UNWEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes.
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    if not reads_row(tl.load(weights_ptr + row), label, ignore_index, READS_UNWEIGHTED):
        # Numbers of no row, but numbers: nothing else is told to the other ranks.
        tl.store(statistics_ptr + row, 0.0)
        tl.store(statistics_ptr + n_rows + row, 0.0)
        tl.store(statistics_ptr + 2 * n_rows + row, 0.0)
        tl.store(statistics_ptr + 3 * n_rows + row, 0.0)
        return

    row_ptr = logits_ptr + row * logits_stride_row
    label_x = tl.load(label_x_ptr + row)
    label_z = softcapped(label_x, True, softcap, HAS_SOFTCAP)
    column, is_own = _own_column(label, start, n_cols)
    largest_x, largest, others, smooth, _ = row_statistics(
        row_ptr,
        0,
        n_cols,
        column,
        finite_or_zero(label_z),
        class_weights_ptr + start,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
        BLOCK,
    )
    if is_own:
        top = tl.maximum(largest, label_z)
        others *= tl.exp(largest - finite_or_zero(top))
        largest = top
        if HAS_SMOOTHING:
            label_class_weight = 1.0
            if HAS_CLASS_WEIGHTS:
                label_class_weight = tl.load(class_weights_ptr + label)
            smooth += label_smoothing_term(label_z, label_class_weight)
    tl.store(statistics_ptr + row, largest)
    tl.store(statistics_ptr + n_rows + row, others)
    tl.store(statistics_ptr + 2 * n_rows + row, smooth)
    beaten = 0
    if HAS_CORRECT:
        before = tl.minimum(label - start, n_cols).to(tl.int32)
        beaten = is_beaten(row_ptr, 0, before, label_x, largest_x, BLOCK if BLOCK < 1024 else 1024)
    tl.store(statistics_ptr + 3 * n_rows + row, beaten * 1.0)


@triton.jit
def _piece_losses_fwd_kernel(
    logits_ptr,
    logits_stride_row,
    gradient_ptr,
    gradient_stride_row,
    losses_ptr,
    correct_ptr,
    statistics_ptr,
    labels_ptr,
    weights_ptr,
    denominator_ptr,
    class_weights_ptr,
    mass_ptr,
    n_rows,
    n_cols,
    start,
    n_classes,
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
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    weight = tl.load(weights_ptr + row)
    logits_row_ptr = logits_ptr + row * logits_stride_row
    gradient_row_ptr = gradient_ptr + row * gradient_stride_row
    if not reads_row(weight, label, ignore_index, READS_UNWEIGHTED):
        tl.store(losses_ptr + row, 0.0)
        if HAS_CORRECT:
            tl.store(correct_ptr + row, 0)
        if HAS_GRADIENT:
            store_zeros(gradient_row_ptr, 0, n_cols, BLOCK)
        return

    largest = tl.load(statistics_ptr + row)
    others = tl.load(statistics_ptr + n_rows + row)
    smooth = tl.load(statistics_ptr + 2 * n_rows + row)
    beaten = tl.load(statistics_ptr + 3 * n_rows + row)
    label_x = tl.load(statistics_ptr + 4 * n_rows + row)
    mass = 0.0
    label_class_weight = 1.0
    if HAS_CLASS_WEIGHTS:
        mass = tl.load(mass_ptr)
        in_range = (label >= 0) & (label < n_classes)
        label_class_weight = tl.load(class_weights_ptr + label, mask=in_range, other=0.0)
    loss, label_exp, kept, shared = row_loss(
        softcapped(label_x, True, softcap, HAS_SOFTCAP),
        largest,
        others,
        smooth,
        mass,
        label_class_weight,
        n_classes,
        label_smoothing,
        z_loss,
        HAS_SMOOTHING,
        HAS_Z_LOSS,
        HAS_CLASS_WEIGHTS,
    )
    tl.store(losses_ptr + row, loss)
    total = others + label_exp
    if HAS_CORRECT:
        is_correct = (beaten == 0.0) & (total == total)
        tl.store(correct_ptr + row, is_correct.to(tl.int8))

    if HAS_GRADIENT:
        denominator = tl.load(denominator_ptr) if HAS_DENOMINATOR else 1.0
        scale = gradient_scale(weight, denominator, HAS_DENOMINATOR)
        if scale == 0.0:
            store_zeros(gradient_row_ptr, 0, n_cols, BLOCK)
        else:
            per_exp = scale / total
            smoothing_factor = scale * (label_smoothing / n_classes)
            column, is_own = _own_column(label, start, n_cols)
            store_gradient_in_steps(
                gradient_row_ptr,
                logits_row_ptr,
                0,
                n_cols,
                finite_or_zero(largest),
                per_exp * (kept + shared),
                smoothing_factor,
                class_weights_ptr + start,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
                BLOCK,
            )
            label_gradient = per_exp * (shared * label_exp - kept * others)
            if HAS_SMOOTHING:
                label_gradient -= smoothing_factor * label_class_weight
            label_gradient *= softcap_slope(label_x, softcap, HAS_SOFTCAP)
            write_label(gradient_row_ptr, label_gradient, column, is_own)


def piece_statistics(
    logits: Tensor,
    labels: Tensor,
    label_x: Tensor,
    weights: Tensor,
    piece: Piece,
    options: LossOptions,
    *,
    want_correct: bool,
    ignore_index: int,
    reads_unweighted: bool = False,
) -> Tensor:
    """Returns the first four statistics of a piece, (4, R) float32; 0 at rows that are not read.

    Args:
        logits: (R, V_k) float16, bfloat16 or float32, unit column stride, any row stride.
        labels: (R,) int64, of the whole vocabulary.
        label_x: (R,) float32, the label's x, wherever it is; used for smoothing and for `want_correct`.
        weights: (R,) float32 w_r; a row of weight 0 is not read.
        piece: which columns these are.
        options: what a row's loss is, with the float32 class weights of the whole vocabulary.
        want_correct: whether columns that beat the label are counted.
        ignore_index: the label of a row that is not valid.
        reads_unweighted: read every row whose label is not `ignore_index`.
    """
    n_rows, n_cols = logits.shape
    statistics = torch.empty(N_STATISTICS - 1, n_rows, dtype=torch.float32, device=logits.device)
    if n_rows == 0:
        return statistics
    launch = _launch(options, want_correct=want_correct)
    with on_gpu_of(logits):
        _piece_statistics_fwd_kernel[(n_rows,)](
            logits,
            logits.stride(0),
            statistics,
            labels,
            label_x,
            weights,
            weights if options.class_weights is None else options.class_weights,
            n_rows,
            n_cols,
            piece.start,
            ignore_index,
            options.softcap or 1.0,
            HAS_CORRECT=want_correct,
            HAS_SMOOTHING=options.label_smoothing != 0,
            HAS_SOFTCAP=options.softcap is not None,
            HAS_CLASS_WEIGHTS=options.class_weights is not None,
            READS_UNWEIGHTED=reads_unweighted,
            BLOCK=launch.block,
            **compile_options(launch.num_warps),
        )
    return statistics


def piece_losses(
    logits: Tensor,
    labels: Tensor,
    statistics: Tensor,
    weights: Tensor,
    denominator: Tensor | None,
    piece: Piece,
    options: LossOptions,
    *,
    gradient: Tensor | None,
    want_correct: bool,
    ignore_index: int,
    reads_unweighted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,) float32, correct (R,) bool) of whole rows; fills `gradient` with that of the piece.

    Args:
        logits: this and the others as in `piece_statistics`.
        labels: (R,).
        statistics: (5, R) float32 of the whole rows, contiguous.
        weights: (R,).
        denominator: 0-d float32, or None to leave the gradient undivided.
        piece: which columns these are.
        options: what a row's loss is.
        gradient: (R, V_k), of any dtype, to receive w_r / denominator * dc_r/dlogits; it may be
            `logits` itself. None when no gradient is wanted.
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
    class_weights = options.class_weights
    launch = _launch(options, want_correct=want_correct)
    with on_gpu_of(logits):
        _piece_losses_fwd_kernel[(n_rows,)](
            logits,
            logits.stride(0),
            target,
            target.stride(0),
            losses,
            correct,
            statistics,
            labels,
            weights,
            losses if denominator is None else denominator,
            losses if class_weights is None else class_weights,
            losses if class_weights is None else class_weights.sum(),
            n_rows,
            n_cols,
            piece.start,
            piece.n_cols,
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
            HAS_CLASS_WEIGHTS=class_weights is not None,
            READS_UNWEIGHTED=reads_unweighted,
            BLOCK=launch.block,
            **compile_options(launch.num_warps),
        )
    return losses, correct.view(torch.bool)


def _launch(options: LossOptions, *, want_correct: bool) -> Launch:
    needs_more = options.label_smoothing != 0 or options.softcap is not None or want_correct
    return WITH_OPTIONS if needs_more else PLAIN
