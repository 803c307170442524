"""The parts of a row: a block, what comes before it, and two edges.

A row that starts or ends inside a word of `WORD` columns moves as whole words, 128 bits at a time, and two
edges of less than a word each. Positions count from the start of the word in which the row starts.
"""

import triton
import triton.language as tl

from csrc_triton.row_math import (
    exponentials,
    finite_or_zero,
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
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORD: tl.constexpr,
):
    """(first and end of the columns in whole words, start of the block, positions of the edges, which exist).

    The columns before the block are those that no registers hold, in whole steps; where a step is longer than
    the block they may be all.
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
        is_edge = (edges >= skew) & (edges < skew + n_cols) & ((lanes >= WORD) | (lanes < first))
    if STEP > 0:
        start = tl.cdiv(tl.maximum(end - BLOCK, 0), STEP) * STEP
    if STEP > BLOCK:
        # Such a step may reach past the row, where the next one begins.
        start = tl.minimum(start, end)
    return first, end, start, edges, is_edge


@triton.jit
def read_row(
    row_ptr,
    first,
    end,
    start,
    edges,
    is_edge,
    label,
    label_z,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """(block, edges, largest x of the others, largest z, sums over the others) of a row's `row_parts`.

    The sums are of exp(z - largest), of cw (z - z_y) and of cw; the last over all columns, 0 without class
    weights. Block and edges stay in registers as exp(z - largest), or as the logits x under a softcap.
    """
    cols = start + tl.arange(0, BLOCK)
    is_col = (cols >= tl.maximum(first, start)) & (cols < end)
    pivot = finite_or_zero(label_z)
    edges_x = 0.0
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
            label,
            pivot,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            STEP,
        )
    x = load_logits(row_ptr, cols, is_col, label, CACHE="evict_first" if STEP > 0 else "")
    largest_x = tl.maximum(largest_x, tl.max(x, 0))
    if HAS_EDGES:
        edges_x = load_logits(row_ptr, edges, is_edge, label, CACHE="")
        largest_x = tl.maximum(largest_x, tl.max(edges_x, 0))
    largest = tl.maximum(softcapped(largest_x, True, softcap, HAS_SOFTCAP), label_z)
    shift = finite_or_zero(largest)
    if STEP > 0:
        others *= tl.exp(before_largest - shift)
    if HAS_SMOOTHING:
        more_smooth, more_mass = smoothing_sums(
            x, cols, is_col, label, pivot, class_weights_ptr, softcap, HAS_SOFTCAP, HAS_CLASS_WEIGHTS
        )
        smooth += more_smooth
        mass += more_mass
    exps = exponentials(x, cols, is_col, label, shift, softcap, HAS_SOFTCAP)
    others += tl.sum(exps, 0)
    held = exps
    if HAS_SOFTCAP:
        held = x
    held_edges = edges_x
    if HAS_EDGES:
        edges_exps = exponentials(edges_x, edges, is_edge, label, shift, softcap, HAS_SOFTCAP)
        others += tl.sum(edges_exps, 0)
        held_edges = edges_exps
        if HAS_SOFTCAP:
            held_edges = edges_x
        if HAS_SMOOTHING:
            more_smooth, more_mass = smoothing_sums(
                edges_x,
                edges,
                is_edge,
                label,
                pivot,
                class_weights_ptr,
                softcap,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
            smooth += more_smooth
            mass += more_mass
    return held, held_edges, largest_x, largest, others, smooth, mass


@triton.jit
def _write_held(
    gradient_row_ptr,
    held,
    cols,
    is_col,
    label,
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
    """Writes the gradient of columns that `read_row` left in registers."""
    exps = held
    if HAS_SOFTCAP:
        exps = exponentials(held, cols, is_col, label, shift, softcap, HAS_SOFTCAP)
    store_gradient(
        gradient_row_ptr,
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
        CACHE,
    )


@triton.jit
def write_row(
    gradient_row_ptr,
    row_ptr,
    held,
    held_edges,
    first,
    end,
    start,
    edges,
    is_edge,
    label,
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
):
    """Writes the gradient of all columns but the label, which gets a value to be replaced."""
    # Where logits are to stay in cache for their second pass, what is written must leave it first.
    CACHE: tl.constexpr = "evict_first" if STEP > 0 else ""
    cols = start + tl.arange(0, BLOCK)
    _write_held(
        gradient_row_ptr,
        held,
        cols,
        (cols >= tl.maximum(first, start)) & (cols < end),
        label,
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
    if HAS_EDGES:
        _write_held(
            gradient_row_ptr,
            held_edges,
            edges,
            is_edge,
            label,
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
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            STEP,
        )


@triton.jit
def write_zeros(gradient_row_ptr, first, end, edges, is_edge, HAS_EDGES: tl.constexpr, BLOCK: tl.constexpr):
    """Writes a gradient of exactly 0, whatever the logits: NaN times 0 is no 0."""
    store_zeros(gradient_row_ptr, first, end, BLOCK)
    if HAS_EDGES:
        tl.store(gradient_row_ptr + edges, (edges * 0).to(gradient_row_ptr.dtype.element_ty), mask=is_edge)


@triton.jit
def write_label(gradient_row_ptr, value, label, in_range):
    """Replaces the label's gradient once all columns are written.

    A select among the columns instead costs ten registers of each thread.
    """
    tl.debug_barrier()
    tl.store(gradient_row_ptr + label, value.to(gradient_row_ptr.dtype.element_ty), mask=in_range)
