"""The logits of the linear level: how many rows at a time, in which dtype, and their gradient as a factor."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from csrc_triton.compact import CUDA_ALIGNMENT
from csrc_triton.products import add_product_, adds_wide_products

CPU_BUDGET = 128 * 2**20
GPU_BUDGET = 2 * 2**30
_MIN_CHUNK_ROWS = 64
# Fewer rows of logits lose more in their own product than longer ones win in the other two.
_GOOD_LOGITS_ROWS = 512
# Rows of logits start at multiples of 64 elements: a vocabulary of 32003 would misalign every second row.
_COLUMN_ALIGNMENT = 64


class ChunkRows(NamedTuple):
    """The rows of a chunk, whose gradient is kept for its products, and those of logits alive at once."""

    outer: int
    inner: int


@dataclass(frozen=True)
class ChunkMemory:
    """Bytes that a plan of chunks weighs against each other.

    Attributes:
        kept_row: a row of what a chunk's products need: the gradient of the logits and the states.
        logits_row: a row of logits, where they are not written over by the gradient; 0 where they are, or
            where keeping the gradient for longer would win nothing: they belong to `kept_row` then.
        accumulator: dW in the accumulation dtype, where several chunks need one of their own.
        rounded: dW in its own dtype: beside the logits of one chunk, but after those of several.
    """

    kept_row: int
    logits_row: int
    accumulator: int
    rounded: int

    def chunk_rows(self, n_rows: int, memory_budget: int | str | None, *, is_cuda: bool) -> ChunkRows:
        """The rows of a chunk and of its logits: as many as `memory_budget` bytes allow, chunks alike.

        None is 128 MiB on a CPU, 2 GiB on a GPU. "min" does not raise the peak: as much as dW takes when it
        is rounded after the logits, else 64 rows (128 on a GPU). One chunk needs no accumulator, so it is
        taken wherever it needs no more memory than several. Logits come in 512 rows or more where the budget
        holds these, and get what the rest of the chunk leaves.
        """
        budget, alignment = self._bytes(memory_budget, is_cuda=is_cuda), CUDA_ALIGNMENT if is_cuda else 1
        least = max(_MIN_CHUNK_ROWS, alignment)
        at_once = self.accumulator + max(0, budget - self.rounded) if self.accumulator else budget
        room, outer = max(budget, at_once), n_rows
        if n_rows * self.kept_row + min(n_rows, _GOOD_LOGITS_ROWS) * self.logits_row > room:
            room, fitting = budget, budget // (self.kept_row + self.logits_row)
            if fitting > _GOOD_LOGITS_ROWS:
                fitting = (budget - _GOOD_LOGITS_ROWS * self.logits_row) // self.kept_row
            outer = _alike(n_rows, max(least, fitting), alignment)
        if not self.logits_row:
            return ChunkRows(outer, outer)
        fitting = (room - outer * self.kept_row) // self.logits_row
        return ChunkRows(outer, min(outer, _alike(outer, max(least, fitting), alignment)))

    def _bytes(self, memory_budget: int | str | None, *, is_cuda: bool) -> int:
        if memory_budget == "min":
            return self.rounded if self.accumulator else 0
        if isinstance(memory_budget, int):
            return memory_budget
        return GPU_BUDGET if is_cuda else CPU_BUDGET


def logits_dtypes(
    weight: Tensor, accumulation: torch.dtype, *, needs_gradient: bool
) -> tuple[torch.dtype, torch.dtype | None]:
    """The dtypes of a chunk's logits and of their gradient.

    Logits of 16 bits are off by up to 0.4 % of their size, which is the error of a probability: they stay as
    the product sums them, in float32. The gradient is a factor of products and has the dtype of the others.
    """
    is_wide = not weight.is_cuda or adds_wide_products(weight.device)
    return accumulation if is_wide else weight.dtype, weight.dtype if needs_gradient else None


def chunk_memory(
    weight: Tensor,
    n_cols: int,
    dtypes: tuple[torch.dtype, torch.dtype | None],
    dtype: torch.dtype,
    into: Tensor | None,
    needs_weight_gradient: bool,
) -> ChunkMemory:
    """The bytes of a call: (V, D) head, V of the plan, `logits_dtypes`, accumulation, tensor added to."""
    element, n_elements = weight.element_size(), n_cols * weight.shape[1]
    needs_accumulator = needs_weight_gradient and dtype != (weight if into is None else into).dtype
    # The gradient is written over logits of its own dtype. Without dW no product is the better for more rows.
    is_apart = needs_weight_gradient and dtypes[0] != dtypes[1]
    buffers = {each for each in dtypes[is_apart:] if each is not None}
    width = _round_up(n_cols, _COLUMN_ALIGNMENT)
    return ChunkMemory(
        kept_row=width * sum(each.itemsize for each in buffers) + weight.shape[1] * element,
        logits_row=width * dtypes[0].itemsize if is_apart else 0,
        accumulator=n_elements * dtype.itemsize if needs_accumulator else 0,
        rounded=n_elements * element if needs_weight_gradient and into is None else 0,
    )


class LogitsChunks:
    """The memory of a chunk's gradient and of its logits, fewer rows or those that the gradient takes over.

    Attributes:
        rows: the rows of a chunk and of its logits.
    """

    def __init__(
        self,
        weight: Tensor,
        rows: ChunkRows,
        dtypes: tuple[torch.dtype, torch.dtype | None],
        *,
        keeps_labels_apart: bool,
    ) -> None:
        self.rows, self.n_cols, self.keeps_labels_apart = rows, weight.shape[0], keeps_labels_apart
        width = _round_up(self.n_cols, _COLUMN_ALIGNMENT)
        self._logits = weight.new_empty(rows.inner, width, dtype=dtypes[0])
        self._gradient: Tensor | None = None
        if dtypes[0] == dtypes[1]:
            # Written over, so that it lasts no longer than they do.
            self._gradient = self._logits
        elif dtypes[1] is not None:
            self._gradient = weight.new_empty(rows.outer, width, dtype=dtypes[1])
        if self._gradient is not None and not weight.is_cuda:
            # oneDNN of torch 2.13 multiplies what stands behind a row by 0 where the CPU has AMX: NaN stays.
            self._gradient[:, self.n_cols :] = 0

    def buffers(self, start: int, n_rows: int) -> tuple[Tensor, Tensor | None]:
        """Where the logits and the gradient of a chunk's rows from `start` on go; there may be no second."""
        logits = self._logits.narrow(0, 0, n_rows).narrow(1, 0, self.n_cols)
        if self._gradient is self._logits:
            return logits, logits
        return logits, self._values(start, n_rows)

    def gradient(self, labels: Tensor, first_col: int) -> "LogitsGradient | None":
        """The gradient of a chunk of rows of `labels`, written over; `first_col` is the label of column 0."""
        values = self._values(0, len(labels))
        if values is None or not self.keeps_labels_apart:
            return None if values is None else LogitsGradient(values, None, labels)
        return LogitsGradient.splitting(values, labels - first_col if first_col else labels)

    def _values(self, start: int, n_rows: int) -> Tensor | None:
        rows = None if self._gradient is None else self._gradient.narrow(0, start, n_rows)
        return None if rows is None else rows.narrow(1, 0, self.n_cols)


@dataclass(frozen=True)
class LogitsGradient:
    """The gradient of a chunk's logits, as a factor of products.

    Where it is not rounded, its largest entries, those of the labels, are kept apart: a product that sums one
    large term and thousands of small ones rounds each of the small ones by the size of the large one.

    Attributes:
        values: (C, V), 0 at the labels that are kept apart.
        label_values: (C, 1), 0 where there is none; or None where nothing is kept apart.
        columns: (C,) int64, the columns of what is kept apart, any column where a row has none.
    """

    values: Tensor
    label_values: Tensor | None
    columns: Tensor

    @classmethod
    def splitting(cls, values: Tensor, columns: Tensor) -> "LogitsGradient":
        """Takes the labels' entries out of `values`; a column outside of 0..V-1 is no label's."""
        n_cols = values.shape[1]
        is_own = ((columns >= 0) & (columns < n_cols)).unsqueeze(1)
        columns = columns.clamp(0, n_cols - 1)
        column = columns.unsqueeze(1)
        found = values.gather(1, column)
        nothing = torch.zeros_like(found)
        label_values = torch.where(is_own, found, nothing)
        values.scatter_(1, column, torch.where(is_own, nothing, found))
        return cls(values, label_values, columns)

    def write_product(self, out: Tensor, weight: Tensor) -> None:
        """Overwrites `out` (C, D) with gradient @ weight."""
        add_product_(out, self.values, weight, beta=0)
        if self.label_values is not None:
            out.addcmul_(weight.index_select(0, self.columns).to(out.dtype), self.label_values)

    def add_transposed_product(self, total: Tensor, chunk: Tensor, *, beta: int) -> None:
        """Writes beta total + gradient.T @ chunk to `total` (V, D)."""
        add_product_(total, self.values.t(), chunk, beta=beta)
        if self.label_values is None:
            return
        _add_at_(total, self.columns, self.label_values * chunk)

    def column_sums(self, dtype: torch.dtype) -> Tensor:
        """The sums over the rows, (V,)."""
        sums = self.values.sum(0, dtype=dtype)
        if self.label_values is not None:
            _add_at_(sums, self.columns, self.label_values.squeeze(1))
        return sums


def _add_at_(total: Tensor, index: Tensor, terms: Tensor) -> None:
    """Adds terms[r] to total[index[r]], in an order that is always the same."""
    terms = terms.to(total.dtype)
    if total.is_cuda:
        total.index_put_((index,), terms, accumulate=True)
    else:
        total.index_add_(0, index, terms)


def _alike(n_rows: int, fitting: int, alignment: int) -> int:
    """The rows of chunks of at most `fitting` rows that differ as little as they can, in whole tiles."""
    n_chunks = max(1, _ceil_div(n_rows, fitting // alignment * alignment))
    return _round_up(_ceil_div(n_rows, n_chunks), alignment)


def _ceil_div(count: int, divisor: int) -> int:
    return -(-count // divisor)


def _round_up(count: int, multiple: int) -> int:
    return _ceil_div(count, multiple) * multiple
