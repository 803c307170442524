"""A candidate for rows of up to 32768 bfloat16 logits: two programs to a multiprocessor, each row read once.

The table's kernel keeps a row as exponentials in float32, which fill the registers of a multiprocessor: while
its one program computes, nothing moves. This one keeps a row as it was read, two logits to a register, and
takes each exponential twice: one row computes while another is on its way. `benchmarks.launches` times it. It
is for plain rows, and not in the package before a GPU has timed it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import WORD, Launch, compile_options, on_gpu_of
from csrc_triton.row_math import (
    exp,
    exponentials,
    finite_or_zero,
    is_another,
    is_inner,
    largest_of,
    load_logits,
    log_sum,
)
from csrc_triton.row_parts import row_parts, row_start, word_of_label
from csrc_triton.row_writes import store_gradient, write_zeros

# 64 registers of 512 threads, twice, are those of a multiprocessor.
LAUNCH = Launch(32768, 16, registers=64)
LANES = 512


@triton.jit
def _load_pairs(
    row_ptr, start, first, end, label_word, PART: tl.constexpr, LANES: tl.constexpr, WORD: tl.constexpr
):
    """A part of a row as pairs of logits in int32, -inf outside of first..end-1 and in the label's word."""
    words = tl.arange(0, PART // (8 * LANES))[:, None] * LANES + tl.arange(0, LANES)[None, :]
    pairs = words[:, :, None] * 4 + tl.arange(0, 4)[None, None, :] + start // 2
    pair_ptr = tl.multiple_of(row_ptr.to(tl.pointer_type(tl.int32)), 16)
    is_pair = is_inner(pairs, first // 2, end // 2, label_word, WORD // 2)
    # 0xff80 twice.
    return tl.load(pair_ptr + pairs, mask=is_pair, other=-8323200)


@triton.jit
def _logits_of(pairs):
    """The first and the second of each pair in float32."""
    first = (pairs << 16).to(tl.float32, bitcast=True)
    return first, (pairs & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _add_statistics(pairs, lane_max, lane_sum):
    """Each lane's (largest logit, sum of exp(logit - largest)) with these pairs."""
    first, second = _logits_of(pairs)
    new_max = tl.maximum(lane_max, tl.max(tl.max(tl.maximum(first, second), 2), 0))
    shift = finite_or_zero(new_max)
    exps = exp(first - shift[None, :, None]) + exp(second - shift[None, :, None])
    return new_max, lane_sum * exp(lane_max - shift) + tl.sum(tl.sum(exps, 2), 0)


@triton.jit
def _write_pairs(
    gradient_row_ptr,
    pairs,
    start,
    first,
    end,
    label_word,
    shift,
    factor,
    zero,
    PART: tl.constexpr,
    LANES: tl.constexpr,
    WORD: tl.constexpr,
):
    """Writes the gradient of a part; `zero` is 0, but unknown to be before the sum of the row is known."""
    # So no compiler takes these exponentials with the first ones, and keeps them.
    a, b = _logits_of(pairs ^ zero)
    gradient = tl.join(exp(a - shift) * factor, exp(b - shift) * factor)
    gradient = tl.reshape(gradient, [PART // (8 * LANES), LANES, 8])
    words = tl.arange(0, PART // (8 * LANES))[:, None] * LANES + tl.arange(0, LANES)[None, :]
    cols = words[:, :, None] * 8 + tl.arange(0, 8)[None, None, :] + (start + zero * PART)
    store_gradient(gradient_row_ptr, gradient, cols, is_inner(cols, first, end, label_word, WORD), CACHE="")


@triton.jit
def _packed_rows_kernel(
    logits_ptr,
    logits_stride_row,
    gradient_ptr,
    gradient_stride_row,
    losses_ptr,
    labels_ptr,
    weights_ptr,
    denominator_ptr,
    n_cols,
    HAS_EDGES: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    WORD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    weight = tl.load(weights_ptr + row)
    denominator = tl.load(denominator_ptr)
    row_ptr, skew = row_start(logits_ptr, row, logits_stride_row, HAS_EDGES, WORD)
    gradient_row_ptr, _ = row_start(gradient_ptr, row, gradient_stride_row, HAS_EDGES, WORD)
    is_read = weight != 0.0
    column = tl.where((label >= 0) & (label < n_cols) & is_read, label + skew, -1).to(tl.int32)
    label_word, word = word_of_label(column, skew, n_cols, HAS_EDGES, WORD)
    first, end, _, edges = row_parts(skew, n_cols, label_word, HAS_EDGES, BLOCK, 0, WORD)
    label_x = tl.load(row_ptr + column, mask=column >= 0, other=float("nan")).to(tl.float32)
    word_x = load_logits(row_ptr, word, is_another(word, column), CACHE="")
    edges_x = float("-inf")
    if HAS_EDGES:
        is_read_edge = (edges >= 0) & (edges < tl.where(is_read, skew + n_cols, 0))
        edges_x = load_logits(row_ptr, edges, is_read_edge, CACHE="")
    read_end = tl.where(is_read, end, 0)
    # Four parts by hand: of one tensor the compiler would unpack all before it adds up any.
    PART: tl.constexpr = BLOCK // 4
    a = _load_pairs(row_ptr, 0, first, read_end, label_word, PART, LANES, WORD)
    b = _load_pairs(row_ptr, PART, first, read_end, label_word, PART, LANES, WORD)
    c = _load_pairs(row_ptr, 2 * PART, first, read_end, label_word, PART, LANES, WORD)
    d = _load_pairs(row_ptr, 3 * PART, first, read_end, label_word, PART, LANES, WORD)
    if not is_read:
        tl.store(losses_ptr + row, 0.0)
        write_zeros(gradient_row_ptr, first, end, edges, word, HAS_EDGES, PART)
    else:
        lane_max = tl.full([LANES], float("-inf"), tl.float32)
        lane_sum = tl.zeros([LANES], tl.float32)
        lane_max, lane_sum = _add_statistics(a, lane_max, lane_sum)
        lane_max, lane_sum = _add_statistics(b, lane_max, lane_sum)
        lane_max, lane_sum = _add_statistics(c, lane_max, lane_sum)
        lane_max, lane_sum = _add_statistics(d, lane_max, lane_sum)
        # What a GPU takes the largest of drops a NaN, the sum does not.
        lane_max = tl.where(lane_sum == lane_sum, lane_max, float("nan"))
        few_x = tl.max(tl.maximum(word_x, edges_x), 0)
        largest = tl.maximum(tl.maximum(largest_of(lane_max), few_x), label_x)
        shift = finite_or_zero(largest)
        held_word = exponentials(word_x, True, shift, 1.0, False)
        held_edges = 0.0
        if HAS_EDGES:
            held_edges = exponentials(edges_x, True, shift, 1.0, False)
        others = tl.sum(lane_sum * exp(lane_max - shift), 0) + tl.sum(held_word + held_edges, 0)
        label_exp = exp(label_x - shift)
        total = others + label_exp
        factor = tl.where(denominator > 0.0, weight / denominator, 0.0) / total
        zero = total.to(tl.int32, bitcast=True) & (tl.program_id(1) * 65537)
        gradient = tl.where(word == column, -factor * others, factor * held_word)
        store_gradient(gradient_row_ptr, gradient, word, word >= 0, CACHE="")
        if HAS_EDGES:
            store_gradient(gradient_row_ptr, held_edges * factor, edges, edges >= 0, CACHE="")
        _write_pairs(gradient_row_ptr, a, 0, first, end, label_word, shift, factor, zero, PART, LANES, WORD)
        _write_pairs(
            gradient_row_ptr, b, PART, first, end, label_word, shift, factor, zero, PART, LANES, WORD
        )
        _write_pairs(
            gradient_row_ptr, c, 2 * PART, first, end, label_word, shift, factor, zero, PART, LANES, WORD
        )
        _write_pairs(
            gradient_row_ptr, d, 3 * PART, first, end, label_word, shift, factor, zero, PART, LANES, WORD
        )
        log_total = log_sum(others, label_exp, label_x == largest)
        tl.store(losses_ptr + row, (largest - label_x) + log_total)


def packed_forward(
    logits: Tensor, labels: Tensor, weights: Tensor, denominator: Tensor, gradient: Tensor
) -> Tensor:
    """Returns c (R,) float32 and fills `gradient` (R, V), as the kernel of the table does for plain rows.

    Args:
        logits: (R, V) bfloat16, V at most 32768 less a word, unit column stride.
        labels: (R,) int64, in 0..V-1 where a row has a weight.
        weights: (R,) float32; a row of weight 0 is not read.
        denominator: 0-d float32.
        gradient: (R, V) bfloat16; it may be `logits`.
    """
    n_rows, n_cols = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    strides = (logits.stride(0), gradient.stride(0))
    assert strides[0] % WORD == strides[1] % WORD, strides
    has_edges = n_cols % WORD != 0 or strides[0] % WORD != 0
    with on_gpu_of(logits):
        _packed_rows_kernel[(n_rows,)](
            logits,
            logits.stride(0),
            gradient,
            gradient.stride(0),
            losses,
            labels,
            weights,
            denominator,
            n_cols,
            HAS_EDGES=has_edges,
            BLOCK=LAUNCH.block,
            LANES=LANES,
            WORD=WORD,
            **compile_options(LAUNCH.num_warps, LAUNCH.registers),
        )
    return losses
