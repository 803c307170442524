"""The parts of a row: a block, what comes before it, and its edges.

A row moves as whole words of `WORD` columns, 128 bits at a time; one that starts or ends inside a word has
two edges of less than a word each besides. The word in which the label is stands apart from both, so that its
columns alone are compared with the label. Positions count from the start of the word in which the row starts.
"""

import triton
import triton.language as tl

from csrc_triton.row_math import (
    exp,
    exponentials,
    finite_or_zero,
    gradients,
    is_inner,
    load_logits,
    row_statistics,
    smoothing_sums,
    softcapped,
    store_gradient,
    store_gradient_in_steps,
    store_zeros,
)


@triton.jit
def row_start(pointer, row, stride_row, HAS_EDGES: tl.constexpr, WORD: tl.constexpr):
    """(the pointer from which positions count, the position of the row's first column)."""
    start = row * stride_row
    skew = 0
    if HAS_EDGES:
        skew = (start % WORD).to(tl.int32)
        start = start // WORD * WORD
    return pointer + start, skew


@triton.jit
def row_parts(
    skew,
    n_cols,
    label_word,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORD: tl.constexpr,
):
    """(first and end of the columns in whole words, start of the block, positions of the edges, which exist).

    The columns before the block are those that no registers hold, in whole steps; where a step is longer than
    the block they may be all. The edges leave out the label's word.
    """
    first = 0
    end = n_cols
    start = 0
    edges = 0
    is_edge = False
    if HAS_EDGES:
        first = tl.cdiv(skew, WORD) * WORD
        end = (skew + n_cols) // WORD * WORD
        lanes = tl.arange(0, 2 * WORD)
        edges = tl.where(lanes < WORD, lanes, tl.maximum(end, first) + lanes - WORD)
        is_edge = is_inner(edges, skew, skew + n_cols, label_word, WORD) & ((lanes >= WORD) | (lanes < first))
    if STEP > 0:
        start = tl.cdiv(tl.maximum(end - BLOCK, 0), STEP) * STEP
    if STEP > BLOCK:
        # Such a step may reach past the row, where the next one begins.
        start = tl.minimum(start, end)
    return first, end, start, edges, is_edge


@triton.jit
def word_of_label(label, skew, n_cols, HAS_EDGES: tl.constexpr, WORD: tl.constexpr):
    """(its number, its positions, which of them are columns); number -1 and no column for a label of -1.

    There are as many positions as edges, where there are edges: their sums are taken together.
    """
    label_word = tl.where(label >= 0, label // WORD, -1)
    lanes = tl.arange(0, 2 * WORD if HAS_EDGES else WORD)
    word = label_word * WORD + lanes
    return label_word, word, (word >= skew) & (word < skew + n_cols) & (lanes < WORD)


@triton.jit
def read_row(
    row_ptr,
    first,
    end,
    start,
    edges,
    is_edge,
    label,
    label_word,
    word,
    is_word,
    label_z,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORD: tl.constexpr,
):
    """(block, edges, label's word, largest x of the others, largest z, sums over the others) of `row_parts`.

    The sums are of exp(z - largest), of cw (z - z_y) and of cw; the last over all columns, 0 without class
    weights. The parts stay in registers as exp(z - largest), or as the logits x under a softcap.
    """
    cols = start + tl.arange(0, BLOCK)
    is_col = is_inner(cols, tl.maximum(first, start), end, label_word, WORD)
    is_other = is_word & (word != label)
    pivot = finite_or_zero(label_z)
    edges_x = float("-inf")
    others = 0.0
    smooth = 0.0
    mass = 0.0
    largest_x = float("-inf")
    before_largest = float("-inf")
    if STEP > 0:
        largest_x, before_largest, others, smooth, mass = row_statistics(
            row_ptr,
            first,
            start,
            label_word,
            pivot,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            STEP,
            WORD,
        )
    x = load_logits(row_ptr, cols, is_col, CACHE="evict_first" if STEP > 0 else "")
    word_x = load_logits(row_ptr, word, is_other, CACHE="")
    if HAS_EDGES:
        edges_x = load_logits(row_ptr, edges, is_edge, CACHE="")
    few_x = tl.max(tl.maximum(word_x, edges_x), 0)
    largest_x = tl.maximum(largest_x, tl.maximum(tl.max(x, 0), few_x))
    largest = tl.maximum(softcapped(largest_x, True, softcap, HAS_SOFTCAP), label_z)
    shift = finite_or_zero(largest)
    if STEP > 0:
        others *= exp(before_largest - shift)
    held = exponentials(x, is_col, shift, softcap, HAS_SOFTCAP)
    held_word = exponentials(word_x, is_other, shift, softcap, HAS_SOFTCAP)
    held_edges = 0.0
    if HAS_EDGES:
        held_edges = exponentials(edges_x, is_edge, shift, softcap, HAS_SOFTCAP)
    others += tl.sum(held, 0) + tl.sum(held_word + held_edges, 0)
    if HAS_SMOOTHING:
        more_smooth, more_mass = smoothing_sums(
            x, cols, is_col, is_col, pivot, class_weights_ptr, softcap, HAS_SOFTCAP, HAS_CLASS_WEIGHTS
        )
        smooth += more_smooth
        mass += more_mass
        more_smooth, more_mass = smoothing_sums(
            word_x, word, is_word, is_other, pivot, class_weights_ptr, softcap, HAS_SOFTCAP, HAS_CLASS_WEIGHTS
        )
        smooth += more_smooth
        mass += more_mass
        if HAS_EDGES:
            more_smooth, more_mass = smoothing_sums(
                edges_x,
                edges,
                is_edge,
                is_edge,
                pivot,
                class_weights_ptr,
                softcap,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
            smooth += more_smooth
            mass += more_mass
    if HAS_SOFTCAP:
        held = x
        held_word = word_x
        held_edges = edges_x
    return held, held_edges, held_word, largest_x, largest, others, smooth, mass


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
    held_edges,
    held_word,
    first,
    end,
    start,
    edges,
    is_edge,
    label,
    label_word,
    word,
    is_word,
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
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORD: tl.constexpr,
):
    """Writes the gradient of all columns."""
    # Where logits are to stay in cache for their second pass, what is written must leave it first.
    CACHE: tl.constexpr = "evict_first" if STEP > 0 else ""
    cols = start + tl.arange(0, BLOCK)
    if gradient_row_ptr.dtype.element_ty.primitive_bitwidth == 32:
        # The second number of a program is 0: the compiler makes these positions again, and keeps none.
        cols += tl.program_id(1) * BLOCK
    is_col = is_inner(cols, tl.maximum(first, start), end, label_word, WORD)
    gradient = _held_gradients(
        held,
        cols,
        is_col,
        is_col,
        shift,
        factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
    )
    store_gradient(gradient_row_ptr, gradient, cols, is_col, CACHE)
    if HAS_EDGES:
        gradient = _held_gradients(
            held_edges,
            edges,
            is_edge,
            is_edge,
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
        )
        store_gradient(gradient_row_ptr, gradient, edges, is_edge, CACHE)
    write_word(
        gradient_row_ptr,
        held_word,
        word,
        is_word,
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
            WORD,
        )


@triton.jit
def write_word(
    gradient_row_ptr,
    held,
    word,
    is_word,
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
    is_label = word == label
    gradient = _held_gradients(
        held,
        word,
        is_word,
        is_word & (is_label == 0),
        shift,
        factor,
        smoothing_factor,
        class_weights_ptr,
        softcap,
        HAS_SMOOTHING,
        HAS_SOFTCAP,
        HAS_CLASS_WEIGHTS,
    )
    store_gradient(gradient_row_ptr, tl.where(is_label, label_gradient, gradient), word, is_word, CACHE)


@triton.jit
def write_zeros(
    gradient_row_ptr,
    first,
    end,
    edges,
    is_edge,
    word,
    is_word,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a gradient of exactly 0, whatever the logits: NaN times 0 is no 0."""
    store_zeros(gradient_row_ptr, first, end, BLOCK)
    if HAS_EDGES:
        # The label's word may be part of an edge.
        _store_zeros_at(gradient_row_ptr, edges, is_edge)
        _store_zeros_at(gradient_row_ptr, word, is_word)


@triton.jit
def _store_zeros_at(row_ptr, cols, is_col):
    tl.store(row_ptr + cols, (cols * 0).to(row_ptr.dtype.element_ty), mask=is_col)
