"""The Triton kernels that compact what rows bring and put back what comes of them, each in one launch.

Where few rows are read, the dozens of small operations of plain torch take the host longer than the products.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.compact import Compaction, RowMoves
from csrc_triton.gather_rows import gather_rows
from csrc_triton.launch import compile_options, on_gpu_of

BLOCK, NUM_WARPS = 1024, 8
# Rows of a step of the count of those before a block: they come from the cache, so latency is what counts.
STEP = 4096


@triton.jit
def _load_read(read_ptr, weights_ptr, rows, is_row, HAS_READ: tl.constexpr):
    """Whether rows are read, 0 or 1."""
    if HAS_READ:
        is_read = tl.load(read_ptr + rows, mask=is_row, other=0) != 0
    else:
        is_read = tl.load(weights_ptr + rows, mask=is_row, other=0.0) != 0.0
    return is_read.to(tl.int32)


# These change from call to call: a compilation for each kind of value would be of no use.
@triton.jit(do_not_specialize=["n_rows", "capacity", "count"])
def _compact_rows_kernel(
    index_ptr,
    inverse_ptr,
    compact_labels_ptr,
    compact_weights_ptr,
    fits_ptr,
    read_ptr,
    labels_ptr,
    weights_ptr,
    n_rows,
    capacity,
    count,
    ignore_index,
    HAS_READ: tl.constexpr,
    KEEPS_PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    # Each block counts the rows before it anew, instead of waiting for the others: the same order every time.
    first = tl.program_id(0) * BLOCK
    counts = tl.zeros([STEP], tl.int32)
    for start in range(0, first, STEP):
        earlier = start + tl.arange(0, STEP)
        counts += _load_read(read_ptr, weights_ptr, earlier, earlier < first, HAS_READ)
    before = tl.sum(counts, 0)
    lanes = tl.arange(0, BLOCK)
    rows = first + lanes
    is_row = rows < n_rows
    read = _load_read(read_ptr, weights_ptr, rows, is_row, HAS_READ)
    is_read = read != 0
    # Masked loads: at a row that is not read they stay what padding is.
    labels = tl.load(labels_ptr + rows, mask=is_read, other=ignore_index)
    weights = tl.load(weights_ptr + rows, mask=is_read, other=0.0)
    end = before + tl.sum(read, 0)
    if KEEPS_PLACES:
        tl.store(index_ptr + rows, tl.where(is_read, rows, -1).to(tl.int64), mask=is_row)
        tl.store(compact_labels_ptr + rows, labels, mask=is_row)
        tl.store(compact_weights_ptr + rows, weights, mask=is_row)
    else:
        places = before + tl.cumsum(read, 0) - 1
        # More rows than the caller said are an assertion's matter, not a write out of bounds.
        has_place = is_read & (places < capacity)
        tl.store(index_ptr + places, rows.to(tl.int64), mask=has_place)
        tl.store(compact_labels_ptr + places, labels, mask=has_place)
        tl.store(compact_weights_ptr + places, weights, mask=has_place)
        tl.store(inverse_ptr + rows, tl.where(has_place, places, -1).to(tl.int64), mask=is_row)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        tl.store(fits_ptr, (end <= count).to(tl.int8))
        if not KEEPS_PLACES:
            for start in range(end, capacity, BLOCK):
                padding = start + lanes
                is_padding = padding < capacity
                tl.store(index_ptr + padding, tl.full([BLOCK], -1, tl.int64), mask=is_padding)
                label = tl.zeros([BLOCK], tl.int64) + ignore_index
                tl.store(compact_labels_ptr + padding, label, mask=is_padding)
                tl.store(compact_weights_ptr + padding, tl.zeros([BLOCK], tl.float32), mask=is_padding)


@triton.jit(do_not_specialize=["n_rows"])
def _put_rows_kernel(
    row_losses_ptr, row_correct_ptr, losses_ptr, correct_ptr, inverse_ptr, n_rows, BLOCK: tl.constexpr
):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < n_rows
    place = tl.load(inverse_ptr + rows, mask=is_row, other=-1)
    has_place = place >= 0
    # Masked loads: at a row that was not read both are 0.
    tl.store(row_losses_ptr + rows, tl.load(losses_ptr + place, mask=has_place, other=0.0), mask=is_row)
    tl.store(row_correct_ptr + rows, tl.load(correct_ptr + place, mask=has_place, other=0), mask=is_row)


def compact_to(
    read: Tensor | None, labels: Tensor, weights: Tensor, *, capacity: int, count: int, ignore_index: int
) -> tuple[Compaction, Tensor]:
    """`csrc_triton.compact.compact_to` in one launch; tensors are contiguous."""
    n_rows, keeps_places = weights.numel(), capacity >= weights.numel()
    size = min(capacity, n_rows)
    index, compact_labels = labels.new_empty(size), labels.new_empty(size)
    compact_weights, inverse = weights.new_empty(size), None if keeps_places else labels.new_empty(n_rows)
    fits = (torch.empty if n_rows else torch.ones)((), dtype=torch.bool, device=weights.device)
    if n_rows:
        with on_gpu_of(weights):
            _compact_rows_kernel[(triton.cdiv(n_rows, BLOCK),)](
                index,
                index if inverse is None else inverse,
                compact_labels,
                compact_weights,
                fits.view(torch.int8),
                labels if read is None else read.view(torch.int8),
                labels,
                weights,
                n_rows,
                size,
                count,
                ignore_index,
                HAS_READ=read is not None,
                KEEPS_PLACES=keeps_places,
                BLOCK=BLOCK,
                STEP=STEP,
                **compile_options(NUM_WARPS),
            )
    return Compaction(index, inverse, compact_labels, compact_weights), fits


def put_rows(losses: Tensor, correct: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """`csrc_triton.compact.put_rows` in one launch; tensors are contiguous."""
    n_rows = inverse.numel()
    row_losses, row_correct = losses.new_empty(n_rows), correct.new_empty(n_rows)
    if n_rows:
        with on_gpu_of(losses):
            _put_rows_kernel[(triton.cdiv(n_rows, BLOCK),)](
                row_losses,
                row_correct.view(torch.int8),
                losses,
                correct.view(torch.int8),
                inverse,
                n_rows,
                BLOCK=BLOCK,
                **compile_options(NUM_WARPS),
            )
    return row_losses, row_correct


IN_TRITON = RowMoves(gather_rows, compact_to, put_rows)
