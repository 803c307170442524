"""The parts of a row: a block, what comes before it, and the rest, a tail in registers or two edges.

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
def row_parts(
    skew,
    n_cols,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    TAIL: tl.constexpr,
    STEP: tl.constexpr,
    WORD: tl.constexpr,
):
    """(first and end of the columns in whole words, start of the block, positions of the rest, which exist).

    The columns before the block are those that no registers hold, in whole steps.
    """
    first = 0
    end = n_cols
    start = 0
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
    if STEP > 0:
        start = tl.cdiv(tl.maximum(end - BLOCK, 0), STEP) * STEP
    return first, end, start, rest, is_rest


@triton.jit
def read_row(
    row_ptr,
    first,
    end,
    start,
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
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """(block, rest, largest x of the others, largest z, sums over the others).

    The sums are of exp(z - largest), of cw (z - z_y) and of cw; the last over all columns, 0 without class
    weights. Block and rest stay in registers as exp(z - largest), or as the logits x under a softcap.
    """
    cols = start + tl.arange(0, BLOCK)
    is_col = (cols >= tl.maximum(first, start)) & (cols < end)
    pivot = finite_or_zero(label_z)
    rest_x = 0.0
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
    if HAS_REST:
        rest_x = load_logits(row_ptr, rest, is_rest, label, CACHE="")
        largest_x = tl.maximum(largest_x, tl.max(rest_x, 0))
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
    held_rest = rest_x
    if HAS_REST:
        rest_exps = exponentials(rest_x, rest, is_rest, label, shift, softcap, HAS_SOFTCAP)
        others += tl.sum(rest_exps, 0)
        held_rest = rest_exps
        if HAS_SOFTCAP:
            held_rest = rest_x
        if HAS_SMOOTHING:
            more_smooth, more_mass = smoothing_sums(
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
            smooth += more_smooth
            mass += more_mass
    return held, held_rest, largest_x, largest, others, smooth, mass


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
    held_rest,
    first,
    end,
    start,
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
    if HAS_REST:
        _write_held(
            gradient_row_ptr,
            held_rest,
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
