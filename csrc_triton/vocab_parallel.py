"""The Triton kernels of the loss where each rank holds a piece of the vocabulary, a row per program.

One pass sums up the columns of the piece; a second one, once the ranks have told each other, writes their
gradient: 6 bytes per logit in 16 bits.
"""

import torch
from torch import Tensor

from csrc_triton.launch import WARP_SIZE, WORD, Launch, compile_options, on_gpu_of
from csrc_triton.options import LossOptions
from csrc_triton.vocab_parallel_kernels import piece_losses_fwd_kernel, piece_statistics_fwd_kernel
from csrc_triton.vocab_pieces import N_STATISTICS, Piece

# Two passes over any number of columns; the options need more registers, which would spill.
PLAIN = Launch(8192, 16)
WITH_OPTIONS = Launch(1024, 4)


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
        piece_statistics_fwd_kernel[(n_rows,)](
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
            WORD=WORD,
            N_LANES=launch.lanes(logits.element_size(), WARP_SIZE, has_scales=False),
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
        piece_losses_fwd_kernel[(n_rows,)](
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
            WORD=WORD,
            **compile_options(launch.num_warps),
        )
    return losses, correct.view(torch.bool)


def _launch(options: LossOptions, *, want_correct: bool) -> Launch:
    needs_more = options.label_smoothing != 0 or options.softcap is not None or want_correct
    return WITH_OPTIONS if needs_more else PLAIN
