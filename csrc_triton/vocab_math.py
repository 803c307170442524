"""What the kernels of a piece of the vocabulary share: its logits, its statistics, its gradient.

Columns past the end hold -inf. `label` is -1 or past the end where the label is not among the columns. The
label's own term stays out of the sum of exponentials, so that its gradient needs no p - 1. `row_math` has
these for whole rows, which take the label apart before they are read.
"""

import triton
import triton.language as tl

from csrc_triton.row_math import finite_or_zero, tanh


@triton.jit
def load_logits(row_ptr, cols, n_cols):
    """The logits x of the columns in float32."""
    return tl.load(row_ptr + cols, mask=cols < n_cols, other=float("-inf")).to(tl.float32)


@triton.jit
def softcapped(x, cols, n_cols, softcap, HAS_SOFTCAP: tl.constexpr):
    """Z of the logits x; past the end it stays -inf, which the cap alone would make finite."""
    if HAS_SOFTCAP:
        x = tl.where(cols < n_cols, softcap * tanh(x / softcap), float("-inf"))
    return x


@triton.jit
def is_beating(x, label_x, cols, label, n_cols):
    """1 where a column keeps the label from being the lowest index of the largest logit."""
    return tl.where(cols < label, x >= label_x, (x > label_x) & (cols < n_cols)).to(tl.int32)


@triton.jit
def load_class_weights(class_weights_ptr, cols, n_cols, HAS_CLASS_WEIGHTS: tl.constexpr):
    """Cw of the columns, 0 past the end."""
    if HAS_CLASS_WEIGHTS:
        class_weights = tl.load(class_weights_ptr + cols, mask=cols < n_cols, other=0.0)
    else:
        class_weights = tl.where(cols < n_cols, 1.0, 0.0)
    return class_weights


@triton.jit
def smoothing_terms(z, pivot, class_weights):
    """Cw (z - z_y): a class of weight 0 adds exactly 0, whatever its logit."""
    return tl.where(class_weights == 0.0, 0.0, class_weights * (z - pivot))


@triton.jit
def row_statistics(
    row_ptr,
    label,
    label_x,
    pivot,
    class_weights_ptr,
    n_cols,
    softcap,
    HAS_CORRECT: tl.constexpr,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(largest z, sum of exp(z - largest) of the others, sum of cw (z - z_y), sum of cw, columns that beat).

    Lane by lane, with one reduction at the end of the row.
    """
    lanes = tl.arange(0, BLOCK)
    lane_max = tl.full([BLOCK], float("-inf"), tl.float32)
    lane_sum = tl.zeros([BLOCK], tl.float32)
    lane_smooth = tl.zeros([BLOCK], tl.float32)
    lane_mass = tl.zeros([BLOCK], tl.float32)
    lane_beaten = tl.zeros([BLOCK], tl.int32)
    for block in range(0, tl.cdiv(n_cols, BLOCK)):
        cols = block * BLOCK + lanes
        x = load_logits(row_ptr, cols, n_cols)
        z = softcapped(x, cols, n_cols, softcap, HAS_SOFTCAP)
        new_max = tl.maximum(lane_max, z)
        shift = finite_or_zero(new_max)
        lane_sum = lane_sum * tl.exp(lane_max - shift) + tl.where(cols == label, 0.0, tl.exp(z - shift))
        lane_max = new_max
        if HAS_SMOOTHING:
            class_weights = load_class_weights(class_weights_ptr, cols, n_cols, HAS_CLASS_WEIGHTS)
            lane_smooth += smoothing_terms(z, pivot, class_weights)
            lane_mass += class_weights
        if HAS_CORRECT:
            lane_beaten += is_beating(x, label_x, cols, label, n_cols)
    largest = tl.max(lane_max, 0)
    others = tl.sum(lane_sum * tl.exp(lane_max - finite_or_zero(largest)), 0)
    return largest, others, tl.sum(lane_smooth, 0), tl.sum(lane_mass, 0), tl.sum(lane_beaten, 0)


@triton.jit
def store_gradient(
    row_ptr,
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
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """Writes scale dc/dx of the columns; exactly 0 where the scale is, whatever the logits."""
    z = softcapped(x, cols, n_cols, softcap, HAS_SOFTCAP)
    gradient = tl.where(cols == label, label_value, tl.exp(z - shift) * factor)
    if HAS_SMOOTHING:
        class_weights = load_class_weights(class_weights_ptr, cols, n_cols, HAS_CLASS_WEIGHTS)
        gradient -= smoothing_factor * class_weights
    if HAS_SOFTCAP:
        # 1 / cosh^2, which 1 - tanh^2 loses near the cap.
        t = tl.exp(-2.0 * tl.abs(x / softcap))
        gradient *= 4.0 * t / ((1.0 + t) * (1.0 + t))
    gradient = tl.where(scale == 0.0, 0.0, gradient)
    tl.store(row_ptr + cols, gradient.to(row_ptr.dtype.element_ty), mask=cols < n_cols)


@triton.jit
def store_zeros(row_ptr, n_cols, BLOCK: tl.constexpr):
    """Writes a row of zeros."""
    lanes = tl.arange(0, BLOCK)
    for block in range(0, tl.cdiv(n_cols, BLOCK)):
        cols = block * BLOCK + lanes
        zeros = tl.zeros([BLOCK], dtype=row_ptr.dtype.element_ty)
        tl.store(row_ptr + cols, zeros, mask=cols < n_cols)
