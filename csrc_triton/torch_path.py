"""The loss and its gradient in plain torch operations, in one go: the path of CPU tensors and of float64."""

import torch
from torch import Tensor

# Rows are worked on in blocks of about this many logits: small temporaries, still in cache for the next step.
_BLOCK_ELEMENTS = 2**20


def softmax_losses_(
    z: Tensor, labels: Tensor, scale: Tensor | None, *, want_correct: bool
) -> tuple[Tensor, Tensor]:
    """Returns c_r = lse_r - z_{r, y_r} (C,) and top-1 correctness (C,); overwrites `z` with scale_r dc_r/dz.

    The gradient at the label is formed as -(sum over the other classes) / total, not as p - 1, and the loss
    of a label that leads as log1p(sum over the others): a confident token keeps both to full precision.

    Args:
        z: (C, V) logits, float32 or float64, contiguous.
        labels: (C,) int64 in 0..V-1.
        scale: (C,) w_r / denominator, or None when no gradient is wanted (`z` is scratch afterwards).
        want_correct: whether to compare with the argmax; False elsewhere.
    """
    column = labels[:, None]
    label_logit = z.gather(1, column)
    largest = z.amax(dim=1, keepdim=True)
    if want_correct:
        correct = (z.argmax(dim=1) == labels) & ~largest[:, 0].isnan()
    else:
        correct = torch.zeros_like(labels, dtype=torch.bool)
    # A row of -inf alone gives NaN below, as torch does; the subtraction itself must not.
    z.sub_(largest.masked_fill(largest == -torch.inf, 0)).exp_()
    label_exp = z.gather(1, column)
    others = z.scatter_(1, column, 0).sum(dim=1, keepdim=True)
    total = others + label_exp
    losses = (largest - label_logit) + torch.where(label_logit == largest, others.log1p(), total.log())
    if scale is not None:
        factor = scale[:, None] / total
        z.mul_(factor).scatter_(1, column, -others * factor)
    return losses[:, 0], correct


def gtw_cross_entropy_forward(
    logits: Tensor, labels: Tensor, weights: Tensor, scale: Tensor | None, *, want_correct: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns (c (R,), correct (R,) bool, scale_r dc_r/dlogits (R, V) or None); weight-0 rows are not read.

    Args:
        logits: (R, V) floating point, any row stride.
        labels: (R,) int64.
        weights: (R,) w_r in the accumulation dtype.
        scale: (R,) w_r / denominator, or None when no gradient is wanted.
        want_correct: whether top-1 correctness is wanted.
    """
    losses = torch.zeros_like(weights)
    correct = torch.zeros_like(labels, dtype=torch.bool)
    gradient = None if scale is None else torch.zeros_like(logits, memory_format=torch.contiguous_format)
    rows_per_block = max(1, _BLOCK_ELEMENTS // max(1, logits.shape[1]))
    for rows in torch.nonzero(weights)[:, 0].split(rows_per_block):
        z = logits[rows].to(weights.dtype)
        row_scale = None if scale is None else scale[rows]
        losses[rows], correct[rows] = softmax_losses_(z, labels[rows], row_scale, want_correct=want_correct)
        if gradient is not None:
            gradient[rows] = z.to(logits.dtype)
    return losses, correct, gradient
