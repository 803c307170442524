"""The Triton kernels of a piece of the vocabulary: `vocab_parallel` launches them, a row per program."""

import triton
import triton.language as tl

from csrc_triton.row_math import (
    exp,
    exponentials,
    finite_or_zero,
    gradient_factors,
    gradient_scale,
    is_another,
    is_beaten,
    label_smoothing_term,
    lane_statistics,
    largest_of,
    load_logits,
    log_sum,
    reads_row,
    row_loss,
    smoothing_sums,
    softcap_slope,
    softcapped,
)
from csrc_triton.row_parts import word_of_label
from csrc_triton.row_writes import store_gradient_in_steps, store_zeros, write_word


@triton.jit
def _own_column(label, start, n_cols):
    """(the label's column in the piece, -1 where it is elsewhere; whether it is in the piece)."""
    is_own = (label >= start) & (label < start + n_cols)
    return tl.where(is_own, label - start, -1).to(tl.int32), is_own


# Unspecialised, as in the kernel of whole rows.
@triton.jit(do_not_specialize=["n_rows"])
def piece_statistics_fwd_kernel(
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
    WORD: tl.constexpr,
    N_LANES: tl.constexpr,
):
    """Writes the first four statistics of a row's piece."""
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes, rows * statistics may.
    row = tl.program_id(0).to(tl.int64)
    n_rows = n_rows.to(tl.int64)
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
    pivot = finite_or_zero(label_z)
    class_weights_ptr += start
    column, is_own = _own_column(label, start, n_cols)
    label_word, word = word_of_label(column, 0, n_cols, False, WORD)
    lane_max_x, lane_max, lane_sum, lane_smooth, _lane_mass = lane_statistics(
        row_ptr,
        0,
        n_cols,
        label_word,
        pivot,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
        BLOCK,
        1,
        WORD,
        N_LANES,
    )
    largest = largest_of(lane_max)
    largest_x = largest_of(lane_max_x)
    others = tl.sum(lane_sum * exp(lane_max - finite_or_zero(largest)), 0)
    smooth = tl.sum(lane_smooth, 0)
    if is_own:
        is_other = is_another(word, column)
        word_x = load_logits(row_ptr, word, is_other, CACHE="")
        largest_x = tl.maximum(largest_x, tl.max(word_x, 0))
        top = tl.maximum(softcapped(largest_x, True, softcap, HAS_SOFTCAP), label_z)
        shift = finite_or_zero(top)
        others = others * exp(largest - shift)
        others += tl.sum(exponentials(word_x, is_other, shift, softcap, HAS_SOFTCAP), 0)
        largest = top
        if HAS_SMOOTHING:
            label_class_weight = 1.0
            if HAS_CLASS_WEIGHTS:
                label_class_weight = tl.load(class_weights_ptr + column)
            word_smooth, _word_mass = smoothing_sums(
                word_x,
                word,
                column,
                pivot,
                class_weights_ptr,
                softcap,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
            smooth += word_smooth + label_smoothing_term(label_z, label_class_weight)
    tl.store(statistics_ptr + row, largest)
    tl.store(statistics_ptr + n_rows + row, others)
    tl.store(statistics_ptr + 2 * n_rows + row, smooth)
    beaten = 0
    if HAS_CORRECT:
        before = tl.minimum(label - start, n_cols).to(tl.int32)
        beaten = is_beaten(row_ptr, 0, before, label_x, largest_x, BLOCK if BLOCK < 1024 else 1024)
    tl.store(statistics_ptr + 3 * n_rows + row, beaten * 1.0)


@triton.jit(do_not_specialize=["n_rows"])
def piece_losses_fwd_kernel(
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
    WORD: tl.constexpr,
):
    """Writes a row's loss, whether it is correct, and the gradient of its piece."""
    row = tl.program_id(0).to(tl.int64)
    n_rows = n_rows.to(tl.int64)
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
    mass = n_classes * 1.0
    label_class_weight = 1.0
    if HAS_CLASS_WEIGHTS:
        mass = tl.load(mass_ptr)
        in_range = (label >= 0) & (label < n_classes)
        label_class_weight = tl.load(class_weights_ptr + label, mask=in_range, other=0.0)
    label_z = softcapped(label_x, True, softcap, HAS_SOFTCAP)
    label_exp = exp(label_z - finite_or_zero(largest))
    log_total = log_sum(others, label_exp, label_z == largest)
    kept, shared = gradient_factors(
        largest + log_total,
        mass,
        label_class_weight,
        n_classes,
        label_smoothing,
        z_loss,
        HAS_SMOOTHING,
        HAS_Z_LOSS,
    )
    loss = row_loss(
        label_z,
        largest,
        log_total,
        smooth,
        mass,
        kept,
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
            shift = finite_or_zero(largest)
            factor = per_exp * (kept + shared)
            class_weights_ptr += start
            column, _ = _own_column(label, start, n_cols)
            label_word, word = word_of_label(column, 0, n_cols, False, WORD)
            word_x = load_logits(logits_row_ptr, word, is_another(word, column), CACHE="")
            store_gradient_in_steps(
                gradient_row_ptr,
                logits_row_ptr,
                0,
                n_cols,
                label_word,
                shift,
                factor,
                smoothing_factor,
                class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
                BLOCK,
                1,
                WORD,
            )
            label_gradient = per_exp * (shared * label_exp - kept * others)
            if HAS_SMOOTHING:
                label_gradient -= smoothing_factor * label_class_weight
            held = word_x
            if not HAS_SOFTCAP:
                held = exp(word_x - shift)
            write_word(
                gradient_row_ptr,
                held,
                word,
                column,
                label_gradient * softcap_slope(label_x, softcap, HAS_SOFTCAP),
                shift,
                factor,
                smoothing_factor,
                class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
                CACHE="",
            )
