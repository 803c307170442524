"""The loss where each rank holds a piece of the vocabulary: what the ranks tell each other; the torch path.

Each rank sums up its own columns in five numbers a row. Those of all ranks, put together, are what the
single process knows of the whole row, and each rank forms the gradient of its own columns from them.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from csrc_triton.options import LossOptions
from csrc_triton.torch_path import (
    RowBlock,
    exponentials_,
    finite_or_zero,
    form_gradient_,
    row_blocks,
    row_terms,
    run_blocks,
    smoothing_sum,
    softcap_,
)

# Rows of a tensor of statistics (5, R): the largest z of the columns; the sum over those other than the label
# of exp(z - largest); the sum of cw (z - z_y); how many of them, or whether, they beat the label; the label's
# x, 0 where it is elsewhere.
N_STATISTICS = 5


@dataclass(frozen=True)
class Piece:
    """Columns start..start+size-1 of a vocabulary of `n_cols`."""

    start: int
    size: int
    n_cols: int

    def owns(self, labels: Tensor) -> Tensor:
        """Whether the label is among the columns: (R,) bool."""
        return (labels >= self.start) & (labels < self.start + self.size)

    def column(self, labels: Tensor) -> Tensor:
        """The label's column in the piece, any other where it is elsewhere: (R, 1)."""
        return (labels - self.start).clamp(0, self.size - 1)[:, None]

    def options(self, options: LossOptions) -> LossOptions:
        """`options` with the class weights of the columns."""
        if options.class_weights is None:
            return options
        own = options.class_weights[self.start : self.start + self.size]
        return replace(options, class_weights=own)


def label_logits(logits: Tensor, labels: Tensor, piece: Piece, dtype: torch.dtype) -> Tensor:
    """The label's x where it is among the columns, else 0: (R,); the sum over the ranks is the label's x.

    A label outside the vocabulary must not become a plausible number: NaN, beside the range check.
    """
    own = logits.gather(1, piece.column(labels))[:, 0].to(dtype)
    elsewhere = torch.zeros_like(own).masked_fill_((labels < 0) | (labels >= piece.n_cols), torch.nan)
    return torch.where(piece.owns(labels), own, elsewhere)


def combine(pieces: Tensor) -> Tensor:
    """Returns the statistics (5, R) of whole rows from those of the K pieces, (K, 5, R), in a fixed order."""
    largest, others, smooth, beaten, label_x = pieces.unbind(1)
    top = largest.amax(0)
    # A piece of -inf alone adds nothing; a loss of such a row becomes NaN, as in torch.
    others = others * (largest - finite_or_zero(top)).exp()
    return torch.stack([top, others.sum(0), smooth.sum(0), beaten.sum(0), label_x.sum(0)])


def piece_statistics(
    logits: Tensor,
    labels: Tensor,
    label_x: Tensor,
    read: Tensor,
    piece: Piece,
    options: LossOptions,
    *,
    want_correct: bool,
) -> Tensor:
    """Returns the first four statistics of a piece, (4, R) in the dtype of `label_x`; 0 at rows not read.

    Args:
        logits: (R, V_k) floating point, any strides; they are left as they are.
        labels: (R,) int64, of the whole vocabulary.
        label_x: (R,) the label's x, wherever it is; used for smoothing and for `want_correct`.
        read: (R,) bool, the rows that have a loss.
        piece: which columns these are.
        options: what a row's loss is, with the class weights of the whole vocabulary.
        want_correct: whether columns that beat the label are looked for.
    """
    statistics = label_x.new_zeros(N_STATISTICS - 1, labels.numel())
    own_options = piece.options(options)
    for rows in row_blocks(read, logits.shape[1]):
        z = logits[rows].to(label_x.dtype, copy=isinstance(rows, slice))
        if want_correct:
            statistics[3, rows] = _is_beaten(z, labels[rows] - piece.start, label_x[rows]).to(z.dtype)
        softcap_(z, options.softcap, want_slope=False)
        label_z = _softcapped(label_x[rows], options)[:, None]
        largest = z.amax(dim=1, keepdim=True)
        statistics[2, rows] = smoothing_sum(z, label_z, own_options)[:, 0]
        exponentials_(z, largest)
        column, is_own = piece.column(labels[rows]), piece.owns(labels[rows])[:, None]
        z.scatter_(1, column, z.gather(1, column).masked_fill(is_own, 0))
        statistics[0, rows], statistics[1, rows] = largest[:, 0], z.sum(dim=1)
    return statistics


def piece_losses(
    logits: Tensor,
    labels: Tensor,
    statistics: Tensor,
    read: Tensor,
    scale: Tensor,
    piece: Piece,
    options: LossOptions,
    *,
    gradient: Tensor | None,
    want_correct: bool,
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,), correct (R,) bool) of whole rows; fills `gradient` with that of the piece.

    Args:
        logits: this and the others as in `piece_statistics`.
        labels: (R,).
        statistics: (5, R) of the whole rows.
        read: (R,).
        scale: (R,) w_r / denominator in the accumulation dtype.
        piece: which columns these are.
        options: what a row's loss is.
        gradient: (R, V_k) to receive scale_r dc_r/dlogits, zeros at rows that are not read; it may be
            `logits` itself. None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted; False elsewhere.
    """

    def losses_(z: Tensor, rows: RowBlock, row_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        largest, others, smooth, beaten, label_x = (each[rows][:, None] for each in statistics)
        label_z = _softcapped(label_x, options)
        label_exp = label_z.clone()
        exponentials_(label_exp, largest)
        terms_of = labels[rows], label_z, largest, others, label_exp, smooth
        losses, terms = row_terms(*terms_of, n_classes=piece.n_cols, options=options)
        if row_scale is not None:
            slope = softcap_(z, options.softcap, want_slope=True)
            exponentials_(z, largest)
            form_gradient_(
                z,
                piece.column(labels[rows]),
                terms,
                row_scale[:, None],
                slope,
                n_classes=piece.n_cols,
                options=piece.options(options),
                is_own=piece.owns(labels[rows])[:, None],
            )
        correct = (beaten == 0) & ~(others + label_exp).isnan() & want_correct
        return losses[:, 0], correct[:, 0]

    return run_blocks(losses_, logits, read, scale, gradient)


def _is_beaten(logits: Tensor, column: Tensor, label_x: Tensor) -> Tensor:
    """Whether a logit beats the label: a larger one, or an equal one before `column` (C,), maybe outside."""
    largest, first = logits.max(dim=1)
    return (largest > label_x) | ((largest == label_x) & (first < column))


def _softcapped(x: Tensor, options: LossOptions) -> Tensor:
    return x if options.softcap is None else options.softcap * torch.tanh(x / options.softcap)
