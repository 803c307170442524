"""Which rows go through the product with the vocabulary, found without waiting for the GPU.

Ignored rows are left out before the product. Their number decides shapes, so the host must know it: from the
caller, or by one synchronisation.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Whole tiles for the products: rows of a compact array on a GPU.
CUDA_ALIGNMENT = 128


class GatherRows(Protocol):
    """The signature of `gather_rows` here and in `csrc_triton.gather_rows`."""

    def __call__(self, source: Tensor, index: Tensor, *, out: Tensor, start: int = 0) -> Tensor:
        """Writes rows of `source` (M, D) into `out` (P, D) by `index` (P,)."""


@dataclass(frozen=True)
class Compaction:
    """Where the P rows of the compact arrays stand among the R rows.

    Attributes:
        n_rows: P.
        index: (P,) int64, the row behind each compact row, -1 at padding. None where every row is read: the
            compact arrays are the rows themselves.
        inverse: (R,) int64, the compact row of each row, -1 where it is not read. None where P = R and each
            row stands in its own place.
    """

    n_rows: int
    index: Tensor | None
    inverse: Tensor | None

    def take(self, values: Tensor, fill: int) -> Tensor:
        """The compact array (P,) of `values` (R,), `fill` at padding."""
        return values if self.index is None else _select(values, self.index, fill)

    def put(self, values: Tensor) -> Tensor:
        """`values` (P,) in their rows (R,), 0 (False) at the rows that were not read."""
        return values if self.inverse is None else _select(values, self.inverse, 0)


def _select(values: Tensor, index: Tensor, fill: int) -> Tensor:
    return values.index_select(0, index.clamp(min=0)).masked_fill_(index < 0, fill)


def compact_rows(read: Tensor, valid_count: int | None) -> Compaction:
    """Returns the compaction to the rows that are read, padded to a multiple of 128 on a GPU.

    Args:
        read: (R,) bool.
        valid_count: a host int, at least the number of rows read; with it a GPU is not waited for. None
            counts them.

    Raises:
        ValueError: more rows are read than `valid_count`, on a CPU. On a GPU a queued assertion fails.
    """
    if valid_count is None or not read.is_cuda:
        count = int(read.sum().item())
        if valid_count is not None and count > valid_count:
            raise ValueError(
                f"valid_count: expected at least the number of rows that are read, {count}, got "
                f"{valid_count}; count the labels that are not ignore_index after the shift"
            )
        if count == read.numel():
            return Compaction(count, None, None)
    else:
        count = valid_count
        torch._assert_async(read.sum() <= count, f"valid_count: more rows are read than {count}")
    return compact_to(read, -(-count // CUDA_ALIGNMENT) * CUDA_ALIGNMENT if read.is_cuda else count)


def compact_to(read: Tensor, capacity: int) -> Compaction:
    """The compaction of `read` (R,) to `capacity` rows, which hold all that are read; nothing waits."""
    n_rows = read.numel()
    if capacity >= n_rows:
        # Nothing to save; the rows that are not read must still not reach the products.
        return Compaction(n_rows, torch.where(read, torch.arange(n_rows, device=read.device), -1), None)
    counts = read.cumsum(0)
    index = torch.searchsorted(counts, torch.arange(1, capacity + 1, device=read.device))
    return Compaction(capacity, torch.where(index < n_rows, index, -1), torch.where(read, counts - 1, -1))


def gather_rows(source: Tensor, index: Tensor, *, out: Tensor, start: int = 0) -> Tensor:
    """Fills and returns `out`: out[p] = source[index[p] - start], in plain torch; for CPU tensors.

    Rows of `out` whose index is outside start..start+M-1 are left as they are, except that those of index -1
    become 0 when `start` is 0. So a scatter in pieces, index being the inverse, writes every row once.

    Args:
        source: (M, D).
        index: (P,) int64.
        out: (P, D) of the same dtype.
        start: the index of the first row of `source`.
    """
    inside = (index >= start) & (index < start + source.shape[0])
    out[inside] = source[index[inside] - start]
    if start == 0:
        out[index < 0] = 0
    return out
