"""What the kernels write of a row, by its parts (`row_parts`): each column once."""

import triton
import triton.language as tl

from csrc_triton.row_math import (
    exponentials,
    gradients,
    is_another,
    is_inner,
    lanes_of,
    load_logits,
)


@triton.jit
def store_gradient(row_ptr, gradient, cols, is_col, CACHE: tl.constexpr):
    """Writes the gradient of the columns."""
    tl.store(row_ptr + cols, gradient.to(row_ptr.dtype.element_ty), mask=is_col, eviction_policy=CACHE)


@triton.jit
def store_gradient_in_steps(
    gradient_row_ptr,
    row_ptr,
    first,
    end,
    label_word,
    shift,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    WORD: tl.constexpr,
):
    """Reads the columns first..end-1 but the label's word again and writes their gradient."""
    lanes = tl.arange(0, STEP)
    n_steps = tl.cdiv(end, STEP)
    # Backwards: the columns read last are the ones still in cache.
    for step in tl.range(0, n_steps, num_stages=STAGES):
        cols = (n_steps - 1 - step) * STEP + lanes
        is_col = is_inner(cols, first, end, label_word, WORD)
        x = load_logits(row_ptr, cols, is_col, CACHE="evict_first")
        gradient = gradients(
            exponentials(x, is_col, shift, softcap, HAS_SOFTCAP),
            x,
            cols,
            is_col,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
        )
        store_gradient(gradient_row_ptr, gradient, cols, is_col, CACHE="evict_first")


@triton.jit
def store_zeros(row_ptr, first, end, BLOCK: tl.constexpr):
    """Writes zeros into the columns first..end-1."""
    lanes = tl.arange(0, BLOCK)
    for block in range(0, tl.cdiv(end, BLOCK)):
        cols = block * BLOCK + lanes
        zeros = tl.zeros([BLOCK], dtype=row_ptr.dtype.element_ty)
        tl.store(row_ptr + cols, zeros, mask=(cols >= first) & (cols < end))


@triton.jit
def _held_gradients(
    held,
    cols,
    is_col,
    is_other,
    shift,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
):
    """The gradient of columns that `read_row` left in registers."""
    exps = held
    if HAS_SOFTCAP:
        exps = exponentials(held, is_other, shift, softcap, HAS_SOFTCAP)
    return gradients(
        exps,
        held,
        cols,
        is_col,
        factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
    )


@triton.jit
def write_row(
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
    label,
    label_word,
    word,
    label_gradient,
    shift,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_EDGES: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    WORD: tl.constexpr,
    N_LANES: tl.constexpr,
):
    """Writes the gradient of all columns."""
    # Where logits are to stay in cache for their second pass, what is written must leave it first.
    CACHE: tl.constexpr = "evict_first" if STEP > 0 else ""
    if HAS_EDGES:
        gradient = _held_gradients(
            held_edges,
            edges,
            edges >= 0,
            is_another(edges, label),
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
        )
        store_gradient(gradient_row_ptr, gradient, edges, edges >= 0, CACHE)
    write_word(
        gradient_row_ptr,
        held_word,
        word,
        label,
        label_gradient,
        shift,
        factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
        CACHE,
    )
    cols = start + lanes_of(row_ptr, BLOCK, N_LANES)
    # Triton 3.0 compares such a number as a constant of its own alone.
    WIDTH: tl.constexpr = gradient_row_ptr.dtype.element_ty.primitive_bitwidth
    if (WIDTH == 32 or HAS_SOFTCAP) or (STEP > 0 and STEP < BLOCK):
        # Short of registers: a program's second number is 0, so the compiler makes these positions again.
        cols += tl.program_id(1) * BLOCK
    is_col = is_inner(cols, tl.maximum(first, start), end, label_word, WORD)
    block_factor = factor
    if HAS_SCALES and not HAS_SOFTCAP:
        block_factor = (factor * lane_scale)[None, :, None]
    gradient = _held_gradients(
        held,
        cols,
        is_col,
        is_col,
        shift,
        block_factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
    )
    store_gradient(gradient_row_ptr, gradient, cols, is_col, CACHE)
    if STEP > 0:
        store_gradient_in_steps(
            gradient_row_ptr,
            row_ptr,
            first,
            start,
            label_word,
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            STEP,
            STAGES,
            WORD,
        )


@triton.jit
def write_word(
    gradient_row_ptr,
    held,
    word,
    label,
    label_gradient,
    shift,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    CACHE: tl.constexpr,
):
    """Writes the gradient of the label's word from what `read_row` holds of it."""
    gradient = _held_gradients(
        held,
        word,
        word >= 0,
        is_another(word, label),
        shift,
        factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
    )
    store_gradient(
        gradient_row_ptr, tl.where(word == label, label_gradient, gradient), word, word >= 0, CACHE
    )


@triton.jit
def write_zeros(
    gradient_row_ptr,
    first,
    end,
    edges,
    word,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a gradient of exactly 0, whatever the logits: NaN times 0 is no 0."""
    store_zeros(gradient_row_ptr, first, end, BLOCK)
    if HAS_EDGES:
        # The label's word may be part of an edge.
        _store_zeros_at(gradient_row_ptr, edges)
        _store_zeros_at(gradient_row_ptr, word)


@triton.jit
def _store_zeros_at(row_ptr, cols):
    tl.store(row_ptr + cols, (cols * 0).to(row_ptr.dtype.element_ty), mask=cols >= 0)
