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
    is_another,
    is_inner,
    lane_smoothing,
    lane_statistics,
    lanes_of,
    largest_of,
    load_logits,
    smoothing_sums,
    softcapped,
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
    """(first and end of the columns in whole words, start of the block, positions of the edges, -1 for none).

    The columns before the block are those that no registers hold, in whole steps; where a step is longer than
    the block they may be all. The edges leave out the label's word.
    """
    first = 0
    end = n_cols
    start = 0
    edges = -1
    if HAS_EDGES:
        first = tl.cdiv(skew, WORD) * WORD
        end = (skew + n_cols) // WORD * WORD
        lanes = tl.arange(0, 2 * WORD)
        edges = tl.where(lanes < WORD, lanes, tl.maximum(end, first) + lanes - WORD)
        is_edge = is_inner(edges, skew, skew + n_cols, label_word, WORD) & ((lanes >= WORD) | (lanes < first))
        edges = tl.where(is_edge, edges, -1)
    if STEP > 0:
        start = tl.cdiv(tl.maximum(end - BLOCK, 0), STEP) * STEP
    if STEP > BLOCK:
        # Such a step may reach past the row, where the next one begins.
        start = tl.minimum(start, end)
    return first, end, start, edges


@triton.jit
def word_of_label(label, skew, n_cols, HAS_EDGES: tl.constexpr, WORD: tl.constexpr):
    """(its number, its positions); for a label of -1 the number -1. A position of -1 is no column.

    There are as many positions as edges, where there are edges: their sums are taken together.
    """
    label_word = tl.where(label >= 0, label // WORD, -1)
    lanes = tl.arange(0, 2 * WORD if HAS_EDGES else WORD)
    word = label_word * WORD + lanes
    return label_word, tl.where((word >= skew) & (word < skew + n_cols) & (lanes < WORD), word, -1)


@triton.jit
def read_row(
    row_ptr,
    first,
    end,
    start,
    edges,
    edges_x,
    x,
    label_word,
    word,
    label,
    word_x,
    label_z,
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
    """(block, its lanes' scales, edges, label's word, largest x of the others, largest z, sums over them).

    The sums are of exp(z - largest), of cw (z - z_y) and of cw; the last over all columns, 0 without class
    weights. The parts stay in registers as exp(z - largest), or as the logits x under a softcap. With
    `HAS_SCALES` each lane of the block, whose logits are `x`, is summed up by itself, while others are on
    their way: it stays as exp(z - its largest), and has a scale.
    """
    cols = start + lanes_of(row_ptr, BLOCK, N_LANES)
    is_col = is_inner(cols, tl.maximum(first, start), end, label_word, WORD)
    pivot = finite_or_zero(label_z)
    lane_max_x = tl.full([N_LANES], float("-inf"), tl.float32)
    lane_max = lane_max_x
    lane_sum = tl.zeros([N_LANES], tl.float32)
    lane_smooth = lane_sum
    lane_mass = lane_sum
    if STEP > 0:
        lane_max_x, lane_max, lane_sum, lane_smooth, lane_mass = lane_statistics(
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
            STAGES,
            WORD,
            N_LANES,
        )
    if not HAS_SCALES:
        x = load_logits(row_ptr, cols, is_col, CACHE="evict_first" if STEP > 0 else "")
    z = softcapped(x, is_col, softcap, HAS_SOFTCAP)
    block_max_x = tl.max(tl.max(x, 2), 0)
    if HAS_SCALES:
        lane_max = block_max_x
        if HAS_SOFTCAP:
            lane_max = tl.max(tl.max(z, 2), 0)
        held = exp(z - finite_or_zero(lane_max)[None, :, None])
        lane_sum = tl.sum(tl.sum(held, 2), 0)
        # A maximum that asks for the sum, so that the compiler does not put this off.
        block_max_x = tl.where(lane_sum == lane_sum, block_max_x, float("nan"))
    few_x = tl.max(tl.maximum(word_x, edges_x), 0)
    largest_x = tl.maximum(lane_max_x, block_max_x)
    if HAS_SCALES or STEP > 0:
        largest_x = largest_of(largest_x)
    else:
        largest_x = tl.max(largest_x, 0)
    largest_x = tl.maximum(largest_x, few_x)
    largest = tl.maximum(softcapped(largest_x, True, softcap, HAS_SOFTCAP), label_z)
    shift = finite_or_zero(largest)
    lane_scale = exp(lane_max - shift)
    lane_sum *= lane_scale
    if not HAS_SCALES:
        held = exp(z - shift)
        lane_sum += tl.sum(tl.sum(held, 2), 0)
    held_word = exponentials(word_x, is_another(word, label), shift, softcap, HAS_SOFTCAP)
    held_edges = 0.0
    if HAS_EDGES:
        held_edges = exponentials(edges_x, is_another(edges, label), shift, softcap, HAS_SOFTCAP)
    others = tl.sum(lane_sum, 0) + tl.sum(held_word + held_edges, 0)
    lane_smooth, lane_mass = lane_smoothing(
        z,
        cols,
        is_col,
        lane_smooth,
        lane_mass,
        pivot,
        class_weights_ptr,
        HAS_SMOOTHING,
        HAS_CLASS_WEIGHTS,
    )
    smooth = 0.0
    mass = 0.0
    if HAS_SMOOTHING:
        smooth = tl.sum(lane_smooth, 0)
        if HAS_CLASS_WEIGHTS:
            mass = tl.sum(lane_mass, 0)
        more_smooth, more_mass = smoothing_sums(
            word_x, word, label, pivot, class_weights_ptr, softcap, HAS_SOFTCAP, HAS_CLASS_WEIGHTS
        )
        smooth += more_smooth
        mass += more_mass
        if HAS_EDGES:
            more_smooth, more_mass = smoothing_sums(
                edges_x,
                edges,
                label,
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
    return held, lane_scale, held_edges, held_word, largest_x, largest, others, smooth, mass
