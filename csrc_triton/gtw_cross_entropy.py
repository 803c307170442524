"""The Triton kernel: cross-entropy, weight, denominator and gradient in one launch, a row per program.

A row that fits into the registers of its program is read once, a longer one twice; its gradient is written
once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import (
    WARP_SIZE,
    WORD,
    compile_options,
    on_gpu_of,
    row_launch,
    stream_launch,
    takes_long_steps,
)
from csrc_triton.options import LossOptions
from csrc_triton.row_math import (
    exp,
    finite_or_zero,
    gradient_factors,
    gradient_scale,
    is_another,
    is_beaten,
    is_inner,
    label_smoothing_term,
    lanes_of,
    load_logits,
    log_sum,
    reads_row,
    row_loss,
    softcap_slope,
    softcapped,
)
from csrc_triton.row_parts import read_row, row_parts, row_start, word_of_label
from csrc_triton.row_writes import write_row, write_zeros

# Programs that scale rows: a few for each multiprocessor, for most often there is nothing to do.
_SCALE_PROGRAMS = 2048


# Unspecialised: the number of rows differs from call to call.
@triton.jit(do_not_specialize=["n_rows"])
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
    n_rows,
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
    HAS_EDGES: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    WORD: tl.constexpr,
    N_LANES: tl.constexpr,
):
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes.
    program = tl.program_id(0).to(tl.int64)
    # It has one row, or goes through many of which the next are on their way.
    ROW_STAGES: tl.constexpr = STAGES if STEP == 0 else 1
    n_own = tl.cdiv(n_rows - program.to(tl.int32), tl.num_programs(0)) if ROW_STAGES > 1 else 1
    denominator = tl.load(denominator_ptr) if HAS_DENOMINATOR else 1.0
    for own in tl.range(0, n_own, num_stages=ROW_STAGES):
        row = program + own * tl.num_programs(0)
        label = tl.load(labels_ptr + row)
        weight = tl.load(weights_ptr + row)
        row_ptr, skew = row_start(logits_ptr, row, logits_stride_row, HAS_EDGES, WORD)
        gradient_row_ptr, _ = row_start(gradient_ptr, row, gradient_stride_row, HAS_EDGES, WORD)
        row_class_weights_ptr = class_weights_ptr - skew
        is_read = reads_row(weight, label, ignore_index, READS_UNWEIGHTED)
        in_range = (label >= 0) & (label < n_cols) & is_read
        column = tl.where(in_range, label + skew, -1).to(tl.int32)
        label_word, word = word_of_label(column, skew, n_cols, HAS_EDGES, WORD)
        first, end, start, edges = row_parts(skew, n_cols, label_word, HAS_EDGES, BLOCK, STEP, WORD)
        # On their way before anything is waited for: no compiler moves a load over a branch. A label outside
        # the vocabulary must not become a plausible number: NaN, beside the range check.
        label_x = tl.load(row_ptr + column, mask=in_range, other=float("nan")).to(tl.float32)
        word_x = load_logits(row_ptr, word, is_another(word, column), CACHE="")
        edges_x = float("-inf")
        if HAS_EDGES:
            is_read_edge = (edges >= 0) & (edges < tl.where(is_read, skew + n_cols, 0))
            edges_x = load_logits(row_ptr, edges, is_read_edge, CACHE="")
        x = float("-inf")
        if HAS_SCALES:
            cols = lanes_of(row_ptr, BLOCK, N_LANES)
            is_read_col = is_inner(cols, first, tl.where(is_read, end, 0), label_word, WORD)
            x = load_logits(row_ptr, cols, is_read_col, CACHE="")
        if not is_read:
            tl.store(losses_ptr + row, 0.0)
            if HAS_CORRECT:
                tl.store(correct_ptr + row, 0)
            if HAS_GRADIENT:
                write_zeros(gradient_row_ptr, first, end, edges, word, HAS_EDGES, BLOCK)
        else:
            scale = gradient_scale(weight, denominator, HAS_DENOMINATOR)
            label_z = softcapped(label_x, True, softcap, HAS_SOFTCAP)

            held, lane_scale, held_edges, held_word, largest_x, largest, others, smooth, mass = read_row(
                row_ptr,
                first,
                end,
                start,
                edges,
                edges_x,
                x,
                label_word,
                word,
                column,
                word_x,
                label_z,
                row_class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
                HAS_EDGES,
                HAS_SCALES,
                BLOCK,
                STEP,
                STAGES,
                WORD,
                N_LANES,
            )
            label_class_weight = 1.0
            if HAS_CLASS_WEIGHTS:
                label_class_weight = tl.load(row_class_weights_ptr + column, mask=column >= 0, other=0.0)
            else:
                mass = n_cols
            label_exp = exp(label_z - finite_or_zero(largest))
            total = others + label_exp
            log_total = 0.0
            if HAS_Z_LOSS:
                log_total = log_sum(others, label_exp, label_z == largest)
            kept, shared = gradient_factors(
                largest + log_total,
                mass,
                label_class_weight,
                n_cols,
                label_smoothing,
                z_loss,
                HAS_SMOOTHING,
                HAS_Z_LOSS,
            )
            if HAS_CORRECT:
                beaten = is_beaten(row_ptr, skew, column, label_x, largest_x, BLOCK if BLOCK < 1024 else 1024)

            if HAS_GRADIENT:
                if scale == 0.0:
                    write_zeros(gradient_row_ptr, first, end, edges, word, HAS_EDGES, BLOCK)
                else:
                    per_exp = scale / total
                    smoothing_factor = scale * (label_smoothing / n_cols)
                    label_gradient = per_exp * (shared * label_exp - kept * others)
                    if HAS_SMOOTHING:
                        label_gradient -= smoothing_factor * label_class_weight
                    write_row(
                        gradient_row_ptr,
                        row_ptr,
                        held,
                        lane_scale,
                        held_edges,
                        held_word,
                        first,
                        end,
                        start,
                        edges,
                        column,
                        label_word,
                        word,
                        label_gradient * softcap_slope(label_x, softcap, HAS_SOFTCAP),
                        finite_or_zero(largest),
                        per_exp * (kept + shared),
                        smoothing_factor,
                        row_class_weights_ptr,
                        softcap,
                        HAS_SMOOTHING,
                        HAS_SOFTCAP,
                        HAS_CLASS_WEIGHTS,
                        HAS_EDGES,
                        HAS_SCALES,
                        BLOCK,
                        STEP,
                        STAGES,
                        WORD,
                        N_LANES,
                    )
            # Last, while the gradient is on its way to memory.
            if HAS_CORRECT:
                tl.store(correct_ptr + row, ((beaten == 0) & (total == total)).to(tl.int8))
            if not HAS_Z_LOSS:
                log_total = log_sum(others, label_exp, label_z == largest)
            loss = row_loss(
                label_z,
                largest,
                log_total,
                smooth + label_smoothing_term(label_z, label_class_weight),
                mass,
                kept,
                n_cols,
                label_smoothing,
                z_loss,
                HAS_SMOOTHING,
                HAS_Z_LOSS,
                HAS_CLASS_WEIGHTS,
            )
            tl.store(losses_ptr + row, loss)


@triton.jit
def _scale_rows_kernel(
    gradient_ptr,
    gradient_stride_row,
    factor_ptr,
    factor_stride_row,
    labels_ptr,
    n_rows,
    n_cols,
    ignore_index,
    HAS_LABELS: tl.constexpr,
    HAS_EDGES: tl.constexpr,
    WORD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    for start in range(0, n_rows, tl.num_programs(0)):
        row = tl.program_id(0).to(tl.int64) + start
        is_row = row < n_rows
        factor = tl.load(factor_ptr + row * factor_stride_row, mask=is_row, other=1.0).to(tl.float32)
        # 1 is the usual upstream gradient: decided on the device, so that the host need not wait for it.
        is_scaled = factor != 1.0
        if HAS_LABELS:
            is_scaled &= tl.load(labels_ptr + row, mask=is_row, other=ignore_index) != ignore_index
        if is_scaled:
            row_ptr, skew = row_start(gradient_ptr, row, gradient_stride_row, HAS_EDGES, WORD)
            first, end, _, edges = row_parts(skew, n_cols, -1, HAS_EDGES, BLOCK, 0, WORD)
            for block in range(0, tl.cdiv(end, BLOCK)):
                cols = block * BLOCK + tl.arange(0, BLOCK)
                _scale(row_ptr + cols, (cols >= first) & (cols < end), factor)
            if HAS_EDGES:
                _scale(row_ptr + edges, edges >= 0, factor)


@triton.jit
def _scale(pointers, is_col, factor):
    gradient = tl.load(pointers, mask=is_col, other=0.0)
    scaled = gradient.to(tl.float32)
    # A factor may be NaN or inf, which times 0 is no 0.
    scaled = tl.where(scaled == 0.0, 0.0, scaled * factor)
    tl.store(pointers, scaled.to(gradient.dtype), mask=is_col)


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
        gradient: (R, V), of any dtype, to receive w_r / denominator * dc_r/dlogits; it may be `logits`
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
    # Words can be told apart only where both rows start at the same place in one.
    strides = (logits.stride(0), target.stride(0))
    is_aligned = n_cols % WORD == 0 and strides[0] % WORD == 0
    has_edges = not is_aligned and strides[0] % WORD == strides[1] % WORD
    launch = row_launch(
        n_cols,
        is_aligned=is_aligned,
        is_elementwise=options.softcap is not None or options.label_smoothing != 0,
        has_gradient=gradient is not None,
        takes_long_steps=takes_long_steps(logits, target),
        is_wide=target.element_size() == 4,
    )
    has_scales = launch.has_scales(
        logits.element_size(),
        is_plain=gradient is not None and not reads_unweighted and options.is_plain,
    )
    # What is summed up by word is loaded at the head of a row; a tie of top-1 takes registers besides.
    stages = launch.stages if launch.step or (has_scales and not want_correct) else 1
    n_programs = n_rows if stages == 1 or launch.step else min(n_rows, _multiprocessors(logits.device))
    with on_gpu_of(logits):
        _gtw_cross_entropy_fwd_kernel[(n_programs,)](
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
            n_rows,
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
            HAS_EDGES=has_edges,
            HAS_SCALES=has_scales,
            BLOCK=launch.block,
            STEP=launch.step,
            STAGES=stages,
            WORD=WORD,
            N_LANES=launch.lanes(logits.element_size(), WARP_SIZE, has_scales=has_scales),
            **compile_options(launch.warps(WARP_SIZE), launch.registers, WARP_SIZE),
        )
    return losses, correct.view(torch.bool)


def _multiprocessors(device: torch.device) -> int:
    """Of a GPU; where kernels are interpreted 2, so that programs have several rows."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def scale_rows_(
    gradient: Tensor, factor: Tensor, labels: Tensor | None = None, ignore_index: int = -100
) -> None:
    """Multiplies `gradient` (R, V) in place by `factor`, 0-d or (R,); a factor of 1 costs no pass.

    What is 0 stays 0, whatever the factor. With `labels` (R,) int64 the rows of `ignore_index`, whose
    gradient is 0, cost no pass either.
    """
    n_rows, n_cols = gradient.shape
    if not n_rows or not n_cols:
        return
    launch = stream_launch(n_cols)
    has_edges = n_cols % WORD != 0 or gradient.stride(0) % WORD != 0
    with on_gpu_of(gradient):
        _scale_rows_kernel[(min(n_rows, _SCALE_PROGRAMS),)](
            gradient,
            gradient.stride(0),
            factor,
            0 if factor.ndim == 0 else factor.stride(0),
            factor if labels is None else labels,
            n_rows,
            n_cols,
            ignore_index,
            HAS_LABELS=labels is not None,
            HAS_EDGES=has_edges,
            WORD=WORD,
            BLOCK=launch.block,
            **compile_options(launch.num_warps),
        )
