"""The parts of a row: what a block holds, and the rest of it, a tail in registers or two edges.

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
    store_zeros,
)


@triton.jit
def row_parts(
    skew, n_cols, HAS_EDGES: tl.constexpr, BLOCK: tl.constexpr, TAIL: tl.constexpr, WORD: tl.constexpr
):
    """(first, end of the columns in whole words, positions of the rest, which of these are columns)."""
    first = 0
    end = n_cols
    rest = 0
    is_rest = False
    if HAS_EDGES:
        first = tl.cdiv(skew, WORD) * WORD
        end = (skew + n_cols) // WORD * WORD
        lanes = tl.arange(0, 2 * WORD)
        rest = tl.where(lanes < WORD, lanes, tl.maximum(end, first) + lanes - WORD)
        is_rest = (rest >= skew) & (rest < skew + n_cols) & ((lanes >= WORD) | (lanes < first))
    elif TAIL > 0:
        rest = BLOCK + tl.arange(0, TAIL)
        is_rest = rest < end
    return first, end, rest, is_rest


@triton.jit
def read_row(
    row_ptr,
    first,
    end,
    rest,
    is_rest,
    label,
    label_z,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_REST: tl.constexpr,
    IS_RESIDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """(x of the block, x of the rest, largest x of the others, largest z, sums over the others).

    The sums are of exp(z - largest), of cw (z - z_y) and of cw; the last over all columns, 0 without class
    weights. The block's x is 0 for a row that is read in two passes.
    """
    cols = tl.arange(0, BLOCK)
    is_col = (cols >= first) & (cols < end)
    pivot = finite_or_zero(label_z)
    x = 0.0
    rest_x = 0.0
    smooth = 0.0
    mass = 0.0
    if IS_RESIDENT:
        x = load_logits(row_ptr, cols, is_col, label)
        largest_x = tl.max(x, 0)
    else:
        largest_x, block_largest, others, smooth, mass = row_statistics(
            row_ptr,
            first,
            end,
            label,
            pivot,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
            BLOCK,
        )
    if HAS_REST:
        rest_x = load_logits(row_ptr, rest, is_rest, label)
        largest_x = tl.maximum(largest_x, tl.max(rest_x, 0))
    largest = tl.maximum(softcapped(largest_x, True, softcap, HAS_SOFTCAP), label_z)
    shift = finite_or_zero(largest)
    if IS_RESIDENT:
        others = tl.sum(exponentials(x, cols, is_col, label, shift, softcap, HAS_SOFTCAP), 0)
        if HAS_SMOOTHING:
            smooth, mass = smoothing_sums(
                x, cols, is_col, label, pivot, class_weights_ptr, softcap, HAS_SOFTCAP, HAS_CLASS_WEIGHTS
            )
    else:
        others *= tl.exp(block_largest - shift)
    if HAS_REST:
        others += tl.sum(exponentials(rest_x, rest, is_rest, label, shift, softcap, HAS_SOFTCAP), 0)
        if HAS_SMOOTHING:
            rest_smooth, rest_mass = smoothing_sums(
                rest_x,
                rest,
                is_rest,
                label,
                pivot,
                class_weights_ptr,
                softcap,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
            smooth += rest_smooth
            mass += rest_mass
    return x, rest_x, largest_x, largest, others, smooth, mass


@triton.jit
def write_row(
    gradient_row_ptr,
    row_ptr,
    x,
    rest_x,
    first,
    end,
    rest,
    is_rest,
    label,
    shift,
    factor,
    smoothing_factor,
    class_weights_ptr,
    softcap,
    HAS_SMOOTHING: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_CLASS_WEIGHTS: tl.constexpr,
    HAS_REST: tl.constexpr,
    IS_RESIDENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes the gradient of all columns but the label, which gets a value to be replaced."""
    cols = tl.arange(0, BLOCK)
    if IS_RESIDENT:
        store_gradient(
            gradient_row_ptr,
            x,
            cols,
            (cols >= first) & (cols < end),
            label,
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
        )
    else:
        n_blocks = tl.cdiv(end, BLOCK)
        # Backwards: the blocks read last are the ones still in cache.
        for block in range(0, n_blocks):
            block_cols = (n_blocks - 1 - block) * BLOCK + cols
            is_block_col = (block_cols >= first) & (block_cols < end)
            block_x = load_logits(row_ptr, block_cols, is_block_col, label)
            store_gradient(
                gradient_row_ptr,
                block_x,
                block_cols,
                is_block_col,
                label,
                shift,
                factor,
                smoothing_factor,
                class_weights_ptr,
                softcap,
                HAS_SMOOTHING,
                HAS_SOFTCAP,
                HAS_CLASS_WEIGHTS,
            )
    if HAS_REST:
        store_gradient(
            gradient_row_ptr,
            rest_x,
            rest,
            is_rest,
            label,
            shift,
            factor,
            smoothing_factor,
            class_weights_ptr,
            softcap,
            HAS_SMOOTHING,
            HAS_SOFTCAP,
            HAS_CLASS_WEIGHTS,
        )


@triton.jit
def write_zeros(gradient_row_ptr, first, end, rest, is_rest, HAS_EDGES: tl.constexpr, BLOCK: tl.constexpr):
    """Writes a gradient of exactly 0, whatever the logits: NaN times 0 is no 0."""
    store_zeros(gradient_row_ptr, first, end, BLOCK)
    if HAS_EDGES:
        tl.store(gradient_row_ptr + rest, (rest * 0).to(gradient_row_ptr.dtype.element_ty), mask=is_rest)


@triton.jit
def write_label(gradient_row_ptr, value, label, in_range, IN_CLUSTER: tl.constexpr):
    """Replaces the label's gradient once all columns are written.

    A select among the columns instead costs ten registers of each thread.
    """
    if IN_CLUSTER:
        barrier: tl.constexpr = (
            "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; mov.b32 $0, $1;"
        )
        label = tl.inline_asm_elementwise(barrier, "=r,r", [label], dtype=tl.int32, is_pure=False, pack=1)
    else:
        tl.debug_barrier()
    tl.store(gradient_row_ptr + label, value.to(gradient_row_ptr.dtype.element_ty), mask=in_range)
