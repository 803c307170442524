"""Which rows go through the product with the vocabulary, found without waiting for the GPU.

Ignored rows are left out before the product. Their number decides shapes, so the host must know it: from the
caller, or by one synchronisation.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from csrc_triton.launch import on_gpu_of

# Whole tiles for the products: rows of a compact array on a GPU.
CUDA_ALIGNMENT = 128


@dataclass(frozen=True)
class Compaction:
    """Where the P rows of the compact arrays stand among the R rows, and what they bring.

    Attributes:
        index: (P,) int64, the row behind each compact row, -1 at padding. None where every row is read: the
            compact arrays are the rows themselves.
        inverse: (R,) int64, the compact row of each row, -1 where it is not read. None where P = R and each
            row stands in its own place.
        labels: (P,) int64, `ignore_index` at padding.
        weights: (P,) w_r, 0 at padding.
    """

    index: Tensor | None
    inverse: Tensor | None
    labels: Tensor
    weights: Tensor

    @property
    def n_rows(self) -> int:
        """P."""
        return self.labels.shape[0]


class GatherRows(Protocol):
    """The signature of `gather_rows` here and in `csrc_triton.gather_rows`."""

    def __call__(self, source: Tensor, index: Tensor, *, out: Tensor, start: int = 0) -> Tensor:
        """Writes rows of `source` (M, D) into `out` (P, D) by `index` (P,)."""


class CompactTo(Protocol):
    """The signature of `compact_to` here and in `csrc_triton.compact_kernels`."""

    def __call__(
        self,
        read: Tensor | None,
        labels: Tensor,
        weights: Tensor,
        *,
        capacity: int,
        count: int,
        ignore_index: int,
    ) -> tuple[Compaction, Tensor]:
        """The compaction to `capacity` rows, and whether at most `count` are read: 0-d bool."""


class PutRows(Protocol):
    """The signature of `put_rows` here and in `csrc_triton.compact_kernels`."""

    def __call__(self, losses: Tensor, correct: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Both (P,) in their rows (R,), 0 and False at the rows that were not read."""


@dataclass(frozen=True)
class RowMoves:
    """How rows and their values get into the compact arrays and back."""

    gather: GatherRows
    compact_to: CompactTo
    put: PutRows


def compact_rows(
    read: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    *,
    ignore_index: int,
    valid_count: int | None,
    compact_to: CompactTo,
) -> Compaction:
    """Returns the compaction to the rows that are read, padded to a multiple of 128 on a GPU.

    Args:
        read: (R,) bool; None for the rows of weight other than 0.
        labels: (R,) int64.
        weights: (R,) w_r.
        ignore_index: the label of padding.
        valid_count: a host int, at least the number of rows read; with it a GPU is not waited for. None
            counts them; in a CUDA graph, which cannot wait, all rows are kept.
        compact_to: what makes the compaction once the host has its size.

    Raises:
        ValueError: more rows are read than `valid_count`, on a CPU. On a GPU a queued assertion fails.
    """
    if valid_count is None and weights.is_cuda and _is_captured(weights):
        # While a CUDA graph is captured, as by torch.compile's "reduce-overhead", nothing can be waited for.
        valid_count = weights.numel()
    is_counted = valid_count is None or not weights.is_cuda
    if is_counted:
        read = weights != 0 if read is None else read
        count = int(read.sum().item())
        if valid_count is not None and count > valid_count:
            raise ValueError(
                f"valid_count: expected at least the number of rows that are read, {count}, got "
                f"{valid_count}; count the labels that are not ignore_index after the shift"
            )
        if count == read.numel():
            return Compaction(None, None, labels, weights)
    else:
        assert valid_count is not None
        count = valid_count
    capacity = -(-count // CUDA_ALIGNMENT) * CUDA_ALIGNMENT if weights.is_cuda else count
    rows, fits = compact_to(read, labels, weights, capacity=capacity, count=count, ignore_index=ignore_index)
    if not is_counted:
        torch._assert_async(fits, f"valid_count: more rows are read than {count}")
    return rows


def _is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured on the tensor's GPU, or on the current one."""
    with on_gpu_of(tensor):
        is_on_own = torch.cuda.is_current_stream_capturing()
    return is_on_own or torch.cuda.is_current_stream_capturing()


def compact_to(
    read: Tensor | None, labels: Tensor, weights: Tensor, *, capacity: int, count: int, ignore_index: int
) -> tuple[Compaction, Tensor]:
    """Returns the compaction to `capacity` rows and whether no more than `count` are read; nothing waits.

    Args:
        read: (R,) bool; None for the rows of weight other than 0.
        labels: (R,) int64.
        weights: (R,) w_r.
        capacity: P, which holds all rows that are read. At R or more, P is R and rows keep their places.
        count: how many rows are expected to be read at most.
        ignore_index: the label of padding.
    """
    read = weights != 0 if read is None else read
    n_rows, fits = read.numel(), read.sum() <= count
    if capacity >= n_rows:
        # Nothing to save; the rows that are not read must still not reach the products.
        index = torch.where(read, torch.arange(n_rows, device=read.device), -1)
        inverse = None
    else:
        counts = read.cumsum(0)
        index = torch.searchsorted(counts, torch.arange(1, capacity + 1, device=read.device))
        index = torch.where(index < n_rows, index, -1)
        inverse = torch.where(read, counts - 1, -1)
    return Compaction(index, inverse, _select(labels, index, ignore_index), _select(weights, index, 0)), fits


def put_rows(losses: Tensor, correct: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both (P,) in their rows (R,), 0 and False at the rows that were not read.

    Args:
        losses: (P,) floating point, P > 0.
        correct: (P,) bool.
        inverse: (R,) int64, the place of each row among the P, -1 where there is none.
    """
    return _select(losses, inverse, 0), _select(correct, inverse, 0)


def _select(values: Tensor, index: Tensor, fill: int) -> Tensor:
    return values.index_select(0, index.clamp(min=0)).masked_fill_(index < 0, fill)


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


IN_TORCH = RowMoves(gather_rows, compact_to, put_rows)
