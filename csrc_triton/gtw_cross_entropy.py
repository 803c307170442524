"""The Triton kernel: cross-entropy, weight, denominator and gradient in one launch, a row per program.

A row that fits into the registers of a program, or of a cluster of them, is read once, a longer one twice;
its gradient is written once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import WARP_SIZE, WORD, has_clusters, on_gpu_of, row_launch, stream_launch
from csrc_triton.options import LossOptions
from csrc_triton.row_math import (
    finite_or_zero,
    has_equal_before,
    label_smoothing_term,
    row_loss,
    softcap_slope,
    softcapped,
)
from csrc_triton.row_parts import read_row, row_parts, write_label, write_row, write_zeros

# A row of a gradient that is scaled as a whole, where its own rows are not of whole words.
_FLAT_COLS = 32768


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
    HAS_EDGES: tl.constexpr,
    IS_RESIDENT: tl.constexpr,
    IN_CLUSTER: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    WORD: tl.constexpr,
):
    # 64-bit offsets: rows * vocabulary passes 2^31 elements at ordinary sizes.
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    weight = tl.load(weights_ptr + row)
    row_ptr = logits_ptr + row * logits_stride_row
    gradient_row_ptr = gradient_ptr + row * gradient_stride_row
    HAS_REST: tl.constexpr = HAS_EDGES or TAIL > 0
    skew = 0
    if HAS_EDGES:
        skew = (row * logits_stride_row % WORD).to(tl.int32)
        row_ptr = logits_ptr + row * logits_stride_row // WORD * WORD
        gradient_row_ptr = gradient_ptr + row * gradient_stride_row // WORD * WORD
        class_weights_ptr -= skew
    first, end, rest, is_rest = row_parts(skew, n_cols, HAS_EDGES, BLOCK, TAIL, WORD)
    is_read = weight != 0.0
    if READS_UNWEIGHTED:
        is_read = label != ignore_index
    if not is_read:
        tl.store(losses_ptr + row, 0.0)
        if HAS_CORRECT:
            tl.store(correct_ptr + row, 0)
        if HAS_GRADIENT:
            write_zeros(gradient_row_ptr, first, end, rest, is_rest, HAS_EDGES, BLOCK)
        return

    # A label outside the vocabulary must not become a plausible number: NaN, beside the range check.
    in_range = (label >= 0) & (label < n_cols)
    label = tl.where(in_range, label + skew, -1).to(tl.int32)
    label_x = tl.load(row_ptr + label, mask=in_range, other=float("nan")).to(tl.float32)
    label_z = softcapped(label_x, True, softcap, HAS_SOFTCAP)
    label_class_weight = 1.0
    if HAS_CLASS_WEIGHTS:
        label_class_weight = tl.load(class_weights_ptr + label, mask=in_range, other=0.0)

    x, rest_x, largest_x, largest, others, smooth, mass = read_row(
        row_ptr,
        first,
        end,
        rest,
        is_rest,
        label,
        label_z,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
        HAS_REST,
        IS_RESIDENT,
        BLOCK,
    )
    if not HAS_CLASS_WEIGHTS:
        mass = n_cols
    smooth += label_smoothing_term(label_z, label_class_weight)
    loss, label_exp, kept, shared = row_loss(
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
    total = others + label_exp
    tl.store(losses_ptr + row, loss)
    if HAS_CORRECT:
        is_beaten = (largest_x > label_x).to(tl.int32)
        if largest_x == label_x:
            is_beaten = has_equal_before(row_ptr, skew, label, label_x, min(BLOCK, 1024))
        tl.store(correct_ptr + row, ((is_beaten == 0) & (total == total)).to(tl.int8))

    if HAS_GRADIENT:
        scale = weight
        if HAS_DENOMINATOR:
            denominator = tl.load(denominator_ptr)
            scale = tl.where(denominator > 0.0, weight / denominator, 0.0)
        if scale == 0.0:
            write_zeros(gradient_row_ptr, first, end, rest, is_rest, HAS_EDGES, BLOCK)
        else:
            per_exp = scale / total
            smoothing_factor = scale * (label_smoothing / n_cols)
            write_row(
                gradient_row_ptr,
                row_ptr,
                x,
                rest_x,
                first,
                end,
                rest,
                is_rest,
                label,
                finite_or_zero(largest),
                per_exp * (kept + shared),
                smoothing_factor,
                class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
                HAS_REST,
                IS_RESIDENT,
                BLOCK,
            )
            label_gradient = per_exp * (shared * label_exp - kept * others)
            if HAS_SMOOTHING:
                label_gradient -= smoothing_factor * label_class_weight
            label_gradient *= softcap_slope(label_x, softcap, HAS_SOFTCAP)
            write_label(gradient_row_ptr, label_gradient, label, in_range, IN_CLUSTER)


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
        has_clusters=has_clusters(logits.device, triton.__version__),
    )
    with on_gpu_of(logits):
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
            HAS_EDGES=has_edges,
            IS_RESIDENT=launch.is_resident,
            IN_CLUSTER=launch.num_ctas > 1,
            BLOCK=launch.block,
            TAIL=launch.tail,
            WORD=WORD,
            num_warps=launch.warps(WARP_SIZE),
            num_ctas=launch.num_ctas,
        )
    return losses, correct.view(torch.bool)


def scale_rows_(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies `gradient` (R, V) in place by `factor`, 0-d or (R,); a factor of 1 costs no pass."""
    if factor.ndim == 0 and gradient.shape[1] % WORD and gradient.is_contiguous():
        # One factor for all: cut anew into rows of whole words, which move 128 bits at a time.
        flat, rest = gradient.view(-1), gradient.numel() % _FLAT_COLS
        end = flat.numel() - rest
        _scale_rows_(flat.narrow(0, 0, end).view(-1, _FLAT_COLS), factor)
        _scale_rows_(flat.narrow(0, end, rest).view(1, rest), factor)
    else:
        _scale_rows_(gradient, factor)


def _scale_rows_(gradient: Tensor, factor: Tensor) -> None:
    n_rows, n_cols = gradient.shape
    if n_rows and n_cols:
        launch = stream_launch(n_cols)
        with on_gpu_of(gradient):
            _scale_rows_kernel[(n_rows,)](
                gradient,
                gradient.stride(0),
                factor,
                0 if factor.ndim == 0 else factor.stride(0),
                n_cols,
                BLOCK=launch.block,
                num_warps=launch.num_warps,
            )
