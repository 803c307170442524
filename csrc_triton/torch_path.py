"""The loss and its gradient in plain torch operations, in one go: the path of CPU tensors and of float64."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from csrc_triton.options import LossOptions

# Rows are worked on in blocks of about this many logits: small temporaries, still in cache for the next step.
_BLOCK_ELEMENTS = 2**20
RowBlock = slice | Tensor
# fn(logits (C, V), their rows, scale (C,) or None) -> (c (C,), correct (C,)).
BlockLoss = Callable[[Tensor, RowBlock, Tensor | None], tuple[Tensor, Tensor]]


class RowTerms(NamedTuple):
    """What a row's gradient is made of, each (C, 1): dc/dz = kept (p - [v = y]) + rest p - (eps / V) cw.

    `others` is the sum of exp(z - largest) over the classes other than the label, `label_exp` the label's.
    """

    kept: Tensor
    rest: Tensor
    others: Tensor
    label_exp: Tensor


def softmax_losses_(
    z: Tensor, labels: Tensor, scale: Tensor | None, options: LossOptions, *, want_correct: bool
) -> tuple[Tensor, Tensor]:
    """Returns c_r (C,) and top-1 correctness (C,); overwrites the logits `z` with scale_r dc_r/dlogits.

    The gradient at the label is formed as -(sum over the other classes) / total, not as p - 1, and the loss
    of a label that leads as log1p(sum over the others): a confident token keeps both to full precision.

    Args:
        z: (C, V) logits, float32 or float64, contiguous.
        labels: (C,) int64 in 0..V-1.
        scale: (C,) w_r / denominator, or None when no gradient is wanted (`z` is scratch afterwards).
        options: what a row's loss is.
        want_correct: whether to compare with the argmax; False elsewhere.
    """
    column = labels[:, None]
    # A NaN is the largest entry to max.
    is_first = z.max(dim=1).indices == labels if want_correct else torch.zeros_like(labels, dtype=torch.bool)
    slope = softcap_(z, options.softcap, want_slope=scale is not None)
    label_logit = z.gather(1, column)
    largest = z.amax(dim=1, keepdim=True)
    smooth = smoothing_sum(z, label_logit, options)
    exponentials_(z, largest)
    label_exp = z.gather(1, column)
    others = z.scatter_(1, column, 0).sum(dim=1, keepdim=True)
    losses, terms = row_terms(
        labels, label_logit, largest, others, label_exp, smooth, n_classes=z.shape[1], options=options
    )
    if scale is not None:
        form_gradient_(z, column, terms, scale[:, None], slope, n_classes=z.shape[1], options=options)
    # A NaN or +inf leaves no probabilities, and no class that is the most probable.
    return losses[:, 0], is_first & ~(others + label_exp).isnan()[:, 0]


def row_terms(
    labels: Tensor,
    label_logit: Tensor,
    largest: Tensor,
    others: Tensor,
    label_exp: Tensor,
    smooth: Tensor,
    *,
    n_classes: int,
    options: LossOptions,
) -> tuple[Tensor, RowTerms]:
    """Returns c (C, 1) and the terms of its gradient from statistics (C, 1) over the whole vocabulary.

    Args:
        labels: (C,) int64 in 0..V-1.
        label_logit: z_y.
        largest: the largest z.
        others: sum over the other classes of exp(z - largest).
        label_exp: exp(z_y - largest).
        smooth: sum_v cw[v] (z_v - z_y).
        n_classes: V.
        options: what a row's loss is.
    """
    log_total = torch.where(label_logit == largest, others.log1p(), (others + label_exp).log())
    minus_log_p, lse = (largest - label_logit) + log_total, largest + log_total
    class_weights, eps = options.class_weights, options.label_smoothing
    kept = torch.full_like(minus_log_p, 1 - eps)
    mass = minus_log_p.new_tensor(n_classes)
    if class_weights is not None:
        kept = kept * class_weights[labels][:, None]
        mass = class_weights.sum()
    rest = torch.zeros_like(kept)
    # A label that keeps nothing may have a logit of -inf; a row without a log-sum-exp is NaN all the same.
    losses = torch.where(kept == 0, 0 * lse, kept * minus_log_p)
    if eps:
        # The smoothing terms count from the label's logit, or from 0 where that is -inf.
        spread = (largest - finite_or_zero(label_logit)) + log_total
        losses = losses + eps / n_classes * (mass * spread - smooth)
        rest = rest + eps / n_classes * mass
    if options.z_loss:
        losses = losses + options.z_loss * lse**2
        rest = rest + 2 * options.z_loss * lse
    return losses, RowTerms(kept, rest, others, label_exp)


def form_gradient_(
    exps: Tensor,
    column: Tensor,
    terms: RowTerms,
    scale: Tensor,
    slope: Tensor | None,
    *,
    n_classes: int,
    options: LossOptions,
    is_own: Tensor | None = None,
) -> None:
    """Overwrites `exps` = exp(z - largest) with scale dc/dlogits.

    Args:
        exps: (C, V) all columns, or a piece of them.
        column: (C, 1) the label's column in `exps`.
        terms: those of the rows.
        scale: (C, 1) w_r / denominator; a row of scale 0 becomes exactly 0.
        slope: (C, V) dz/dlogits, or None for 1.
        n_classes: V of the whole vocabulary.
        options: what a row's loss is, its class weights those of the columns of `exps`.
        is_own: (C, 1) bool, whether the label is among the columns; `column` may be any other where it is
            not. None: everywhere.
    """
    kept, rest, others, label_exp = terms
    factor = scale / (others + label_exp)
    exps.mul_(factor * (kept + rest))
    label_value = (rest * label_exp - kept * others) * factor
    if is_own is not None:
        label_value = torch.where(is_own, label_value, exps.gather(1, column))
    exps.scatter_(1, column, label_value)
    if options.label_smoothing:
        step = scale * (options.label_smoothing / n_classes)
        exps.sub_(step if options.class_weights is None else step * options.class_weights)
    if slope is not None:
        exps.mul_(slope)
    _clear_unweighted_(exps, scale)


def softcap_(z: Tensor, softcap: float | None, *, want_slope: bool) -> Tensor | None:
    """Caps z in place; returns the derivative 1 / cosh^2, which 1 - tanh^2 loses near the cap."""
    if softcap is None:
        return None
    z.div_(softcap)
    slope = z.cosh().pow_(-2) if want_slope else None
    z.tanh_().mul_(softcap)
    return slope


def smoothing_sum(z: Tensor, label_logit: Tensor, options: LossOptions) -> Tensor:
    """sum_v cw[v] (z_v - z_y), relative to the label so that large logits lose nothing: (C, 1)."""
    if not options.label_smoothing:
        return torch.zeros_like(label_logit)
    terms = z - finite_or_zero(label_logit)
    if options.class_weights is not None:
        terms.mul_(options.class_weights).masked_fill_(options.class_weights == 0, 0)
    return terms.sum(dim=1, keepdim=True)


def exponentials_(z: Tensor, largest: Tensor) -> None:
    """Overwrites z (C, V) with exp(z - largest), `largest` (C, 1)."""
    # A row of -inf alone gives NaN later, as torch does; the subtraction itself must not.
    z.sub_(finite_or_zero(largest)).exp_()


def finite_or_zero(x: Tensor) -> Tensor:
    """0 in place of -inf: what may be subtracted from -inf."""
    return x.masked_fill(x == -torch.inf, 0)


def _clear_unweighted_(gradient: Tensor, scale: Tensor) -> None:
    """Rows of scale 0, (C, 1), become exactly 0, where 0 times an infinite logit would be NaN."""
    unweighted = scale == 0
    if gradient.is_cuda or bool(unweighted.any()):
        gradient.masked_fill_(unweighted, 0)


def gtw_cross_entropy_forward(
    logits: Tensor,
    labels: Tensor,
    read: Tensor,
    scale: Tensor,
    options: LossOptions,
    *,
    gradient: Tensor | None,
    want_correct: bool,
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,), correct (R,) bool) and fills `gradient`; rows that are not `read` are left alone.

    Args:
        logits: (R, V) floating point, any strides.
        labels: (R,) int64.
        read: (R,) bool, the rows that have a loss.
        scale: (R,) w_r / denominator in the accumulation dtype.
        options: what a row's loss is.
        gradient: (R, V) of any dtype to receive scale_r dc_r/dlogits, zeros at rows that are not read; it
            may be `logits` itself. None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted.
    """

    def losses_(z: Tensor, rows: RowBlock, row_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        return softmax_losses_(z, labels[rows], row_scale, options, want_correct=want_correct)

    return run_blocks(losses_, logits, read, scale, gradient)


def run_blocks(
    losses_: BlockLoss, logits: Tensor, read: Tensor, scale: Tensor, gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns (c (R,), correct (R,) bool) and fills `gradient`, from `losses_` on blocks of the read rows.

    Args:
        losses_: overwrites a block of logits in the accumulation dtype with their gradient.
        logits: this and the others as in `gtw_cross_entropy_forward`.
        read: (R,) bool.
        scale: (R,).
        gradient: (R, V) or None.
    """
    losses = torch.zeros_like(scale)
    correct = torch.zeros_like(read)
    for rows in row_blocks(read, logits.shape[1]):
        is_view = isinstance(rows, slice)
        # Worked on where the gradient goes, if that can hold it: it is not copied there then.
        into = gradient if is_view and gradient is not None and gradient.dtype == scale.dtype else None
        z = logits[rows].to(scale.dtype, copy=is_view) if into is None else into[rows]
        if into is not None and into is not logits:
            z.copy_(logits[rows])
        losses[rows], correct[rows] = losses_(z, rows, None if gradient is None else scale[rows])
        if gradient is not None and into is None:
            gradient[rows] = z.to(gradient.dtype)
    if gradient is not None:
        # Twice as fast as gradient[~read] = 0.
        gradient.index_fill_(0, torch.nonzero(~read)[:, 0], 0)
    return losses, correct


def scale_rows_(gradient: Tensor, factor: Tensor) -> None:
    """Multiplies `gradient` (R, V) in place by `factor`, 0-d or (R,); what is 0 stays 0, whatever the factor.

    Only a block of rows is held at once in the dtype of `factor`.
    """
    n_rows = _block_rows(gradient.shape[1])
    # Reading the factor is free on a CPU and a synchronisation on a GPU.
    keeps_zeros = factor.is_cuda or not bool(factor.isfinite().all())
    for rows, factors in zip(gradient.split(n_rows), factor.expand(len(gradient)).split(n_rows), strict=True):
        zeros = rows == 0 if keeps_zeros else None
        rows.mul_(factors[:, None])
        if zeros is not None:
            rows.masked_fill_(zeros, 0)


def row_blocks(read: Tensor, n_cols: int) -> Iterator[RowBlock]:
    """The rows to read, some at a time: slices (views, no copies) where every row is read."""
    n_rows = _block_rows(n_cols)
    if bool(read.all()):
        yield from (slice(start, start + n_rows) for start in range(0, read.numel(), n_rows))
    else:
        yield from torch.nonzero(read)[:, 0].split(n_rows)


def _block_rows(n_cols: int) -> int:
    return max(1, _BLOCK_ELEMENTS // max(1, n_cols))
