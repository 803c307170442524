"""The loss and its gradient in plain torch operations, in one go: the path of CPU tensors and of float64."""

from collections.abc import Iterator

import torch
from torch import Tensor

from csrc_triton.options import LossOptions

# Rows are worked on in blocks of about this many logits: small temporaries, still in cache for the next step.
_BLOCK_ELEMENTS = 2**20


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
    correct = _top1_correct(z, labels) if want_correct else torch.zeros_like(labels, dtype=torch.bool)
    slope = _softcap_(z, options.softcap, want_slope=scale is not None)
    label_logit = z.gather(1, column)
    largest = z.amax(dim=1, keepdim=True)
    smooth = _smoothing_sum(z, label_logit, options)
    # A row of -inf alone gives NaN below, as torch does; the subtraction itself must not.
    z.sub_(largest.masked_fill(largest == -torch.inf, 0)).exp_()
    label_exp = z.gather(1, column)
    others = z.scatter_(1, column, 0).sum(dim=1, keepdim=True)
    total = others + label_exp
    log_total = torch.where(label_logit == largest, others.log1p(), total.log())
    losses, kept, rest = _row_terms(
        labels, (largest - label_logit) + log_total, largest + log_total, smooth, z.shape[1], options
    )
    if scale is not None:
        factor = scale[:, None] / total
        z.mul_(factor * (kept + rest))
        z.scatter_(1, column, (rest * label_exp - kept * others) * factor)
        if options.label_smoothing:
            step = scale[:, None] * (options.label_smoothing / z.shape[1])
            z.sub_(step if options.class_weights is None else step * options.class_weights)
        if slope is not None:
            z.mul_(slope)
        _clear_unweighted_(z, scale)
    return losses[:, 0], correct


def _row_terms(
    labels: Tensor, minus_log_p: Tensor, lse: Tensor, smooth: Tensor, n_cols: int, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns c and the coefficients of dc/dz = kept (p - [v = y]) + rest p - (eps / V) cw, each (C, 1)."""
    class_weights, eps = options.class_weights, options.label_smoothing
    kept = torch.full_like(minus_log_p, 1 - eps)
    mass = minus_log_p.new_tensor(n_cols)
    if class_weights is not None:
        kept = kept * class_weights[labels][:, None]
        mass = class_weights.sum()
    rest = torch.zeros_like(kept)
    losses = torch.where(kept == 0, rest, kept * minus_log_p)
    if eps:
        losses = losses + eps / n_cols * (mass * minus_log_p - smooth)
        rest = rest + eps / n_cols * mass
    if options.z_loss:
        losses = losses + options.z_loss * lse**2
        rest = rest + 2 * options.z_loss * lse
    return losses, kept, rest


def _top1_correct(logits: Tensor, labels: Tensor) -> Tensor:
    # NaN is the largest entry to argmax.
    largest, first = logits.max(dim=1)
    return (first == labels) & ~largest.isnan()


def _softcap_(z: Tensor, softcap: float | None, *, want_slope: bool) -> Tensor | None:
    """Caps z in place; returns the derivative 1 / cosh^2, which 1 - tanh^2 loses near the cap."""
    if softcap is None:
        return None
    z.div_(softcap)
    slope = z.cosh().pow_(-2) if want_slope else None
    z.tanh_().mul_(softcap)
    return slope


def _smoothing_sum(z: Tensor, label_logit: Tensor, options: LossOptions) -> Tensor:
    """sum_v cw[v] (z_v - z_y), relative to the label so that large logits lose nothing: (C, 1)."""
    if not options.label_smoothing:
        return torch.zeros_like(label_logit)
    terms = z - label_logit.masked_fill(label_logit == -torch.inf, 0)
    if options.class_weights is not None:
        terms.mul_(options.class_weights).masked_fill_(options.class_weights == 0, 0)
    return terms.sum(dim=1, keepdim=True)


def _clear_unweighted_(gradient: Tensor, scale: Tensor) -> None:
    """Rows of scale 0 become exactly 0, where 0 times an infinite logit would be NaN."""
    unweighted = scale == 0
    if gradient.is_cuda or bool(unweighted.any()):
        gradient.masked_fill_(unweighted[:, None], 0)


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
        gradient: (R, V) to receive scale_r dc_r/dlogits, zeros at rows that are not read; it may be `logits`
            itself. None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted.
    """
    losses = torch.zeros_like(scale)
    correct = torch.zeros_like(labels, dtype=torch.bool)
    for rows in _blocks(read, logits.shape[1]):
        is_view = isinstance(rows, slice)
        in_place = gradient is logits and is_view and logits.dtype == scale.dtype
        z = logits[rows] if in_place else logits[rows].to(scale.dtype, copy=is_view)
        row_scale = None if gradient is None else scale[rows]
        losses[rows], correct[rows] = softmax_losses_(
            z, labels[rows], row_scale, options, want_correct=want_correct
        )
        if gradient is not None and not in_place:
            gradient[rows] = z.to(logits.dtype)
    if gradient is not None:
        gradient[~read] = 0
    return losses, correct


def _blocks(read: Tensor, n_cols: int) -> Iterator[slice | Tensor]:
    """The rows to read, some at a time: slices (views, no copies) where every row is read."""
    n_rows = max(1, _BLOCK_ELEMENTS // max(1, n_cols))
    if bool(read.all()):
        yield from (slice(start, start + n_rows) for start in range(0, read.numel(), n_rows))
    else:
        yield from torch.nonzero(read)[:, 0].split(n_rows)
