"""The Triton kernel that gathers rows, or scatters and zero-fills them by the inverse index, in one pass."""

import triton
import triton.language as tl
from torch import Tensor

from csrc_triton.launch import compile_options, on_gpu_of
from csrc_triton.row_writes import store_zeros

# 16 bytes a thread in 16 bits: four warps, one step for each 1024 columns.
BLOCK = 1024
NUM_WARPS = 4


# Both change from call to call: a compilation for each kind of value would be of no use.
@triton.jit(do_not_specialize=["n_source", "start"])
def _gather_rows_kernel(
    source_ptr,
    source_stride_row,
    index_ptr,
    out_ptr,
    out_stride_row,
    n_source,
    start,
    n_cols,
    BLOCK: tl.constexpr,
):
    # 64-bit offsets: rows * columns passes 2^31 elements at ordinary sizes.
    row = tl.program_id(0).to(tl.int64)
    index = tl.load(index_ptr + row)
    position = index - start
    out_row_ptr = out_ptr + row * out_stride_row
    if (index >= start) & (position < n_source):
        source_row_ptr = source_ptr + position * source_stride_row
        lanes = tl.arange(0, BLOCK)
        for block in range(0, tl.cdiv(n_cols, BLOCK)):
            cols = block * BLOCK + lanes
            is_col = cols < n_cols
            tl.store(out_row_ptr + cols, tl.load(source_row_ptr + cols, mask=is_col), mask=is_col)
    elif (index < 0) & (start == 0):
        store_zeros(out_row_ptr, 0, n_cols, BLOCK)


def gather_rows(source: Tensor, index: Tensor, *, out: Tensor, start: int = 0) -> Tensor:
    """Fills and returns `out`: out[p] = source[index[p] - start], a row of zeros where index[p] is -1.

    Rows of `out` whose index is outside start..start+M-1 are left as they are, and those of index -1 too
    unless `start` is 0. So a scatter in pieces, index being the inverse, writes every row once.

    Args:
        source: (M, D) floating point, unit column stride, any row stride.
        index: (P,) int64, contiguous.
        out: (P, D) of the same dtype, unit column stride, any row stride.
        start: the index of the first row of `source`.
    """
    n_rows, n_cols = out.shape
    if n_rows and n_cols:
        with on_gpu_of(source):
            _gather_rows_kernel[(n_rows,)](
                source,
                source.stride(0),
                index,
                out,
                out.stride(0),
                source.shape[0],
                start,
                n_cols,
                BLOCK=BLOCK,
                **compile_options(NUM_WARPS),
            )
    return out
