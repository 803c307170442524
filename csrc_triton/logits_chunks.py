"""The logits of the linear level: how many rows at a time, in which dtype, and their gradient as a factor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from csrc_triton.compact import CUDA_ALIGNMENT
from csrc_triton.products import add_product_, adds_wide_products

CPU_BUDGET = 128 * 2**20
GPU_BUDGET = 3 * 2**29
_MIN_CHUNK_ROWS = 64
# Rows of logits start at multiples of 64 elements: a vocabulary of 32003 would misalign every second row.
_COLUMN_ALIGNMENT = 64


@dataclass(frozen=True)
class ChunkMemory:
    """Bytes that a plan of chunks weighs against each other.

    Attributes:
        logits_row: a row of logits, of their gradient where that is not written over them, and of states.
        accumulator: dW in the accumulation dtype, where several chunks need one of their own.
        rounded: dW in its own dtype: beside the logits of one chunk, but after those of several.
    """

    logits_row: int
    accumulator: int
    rounded: int

    def chunk_rows(self, n_rows: int, memory_budget: int | str | None, *, is_cuda: bool) -> int:
        """The rows of a chunk: as many as `memory_budget` bytes of logits allow, 64 or more, chunks alike.

        None is 128 MiB on a CPU, 1.5 GiB on a GPU. "min" does not raise the peak: logits as large as dW is
        when it is rounded after them, else 64 rows (128 on a GPU). One chunk needs no accumulator, so it is
        taken wherever it needs no more memory than several.
        """
        if memory_budget == "min":
            budget = self.rounded if self.accumulator else 0
        elif isinstance(memory_budget, int):
            budget = memory_budget
        else:
            budget = GPU_BUDGET if is_cuda else CPU_BUDGET
        at_once = self.accumulator + max(0, budget - self.rounded) if self.accumulator else budget
        if n_rows * self.logits_row <= max(budget, at_once):
            return n_rows
        alignment = CUDA_ALIGNMENT if is_cuda else 1
        fitting = max(_MIN_CHUNK_ROWS, alignment, budget // self.logits_row // alignment * alignment)
        return _round_up(_ceil_div(n_rows, _ceil_div(n_rows, fitting)), alignment)


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
    # The gradient is written over logits of its own dtype.
    buffers = {each for each in dtypes if each is not None}
    logits_row = _round_up(n_cols, _COLUMN_ALIGNMENT) * sum(each.itemsize for each in buffers)
    return ChunkMemory(
        logits_row=logits_row + weight.shape[1] * element,
        accumulator=n_elements * dtype.itemsize if needs_accumulator else 0,
        rounded=n_elements * element if needs_weight_gradient and into is None else 0,
    )


class LogitsChunks:
    """The memory of a chunk's logits and of their gradient, which takes their place where it may.

    Attributes:
        n_rows: the rows of a chunk.
    """

    def __init__(
        self,
        weight: Tensor,
        n_rows: int,
        dtypes: tuple[torch.dtype, torch.dtype | None],
        *,
        keeps_labels_apart: bool,
    ) -> None:
        self.n_rows, self.n_cols, self.keeps_labels_apart = n_rows, weight.shape[0], keeps_labels_apart
        shape = n_rows, _round_up(self.n_cols, _COLUMN_ALIGNMENT)
        # One buffer of each dtype: the gradient is written over logits of its own.
        self._buffers = [
            None if dtype is None else weight.new_empty(shape, dtype=dtype) for dtype in dict.fromkeys(dtypes)
        ]

    def buffers(self, n_rows: int) -> tuple[Tensor, Tensor | None]:
        """Where `n_rows` rows of logits and of their gradient go; the same tensor, two, or no second."""
        parts = [
            buffer if buffer is None else buffer.narrow(0, 0, n_rows).narrow(1, 0, self.n_cols)
            for buffer in self._buffers
        ]
        logits, gradient = parts[0], parts[-1]
        assert logits is not None
        return logits, gradient

    def gradient(self, values: Tensor, columns: Tensor) -> "LogitsGradient":
        """The gradient in `values`, written over, with the labels' columns; one outside is no label's."""
        if self.keeps_labels_apart:
            return LogitsGradient.splitting(values, columns)
        return LogitsGradient(values, None, columns)


@dataclass(frozen=True)
class LogitsGradient:
    """The gradient of a chunk's logits, as a factor of products.

    Where it is not rounded, its largest entries, those of the labels, are kept apart: a product that sums one
    large term and thousands of small ones rounds each of the small ones by the size of the large one.

    Attributes:
        values: (C, V), 0 at the labels that are kept apart.
        label_values: (C, 1), 0 where there is none; or None where nothing is kept apart.
        columns: (C,) int64, the labels' columns, any column where there is none.
    """

    values: Tensor
    label_values: Tensor | None
    columns: Tensor

    @classmethod
    def splitting(cls, values: Tensor, columns: Tensor) -> "LogitsGradient":
        """Takes the labels' entries out of `values`; a column outside of 0..V-1 is no label's."""
        n_cols = values.shape[1]
        is_own = (columns >= 0) & (columns < n_cols)
        columns = columns.clamp(0, n_cols - 1)
        column = columns.unsqueeze(1)
        found = values.gather(1, column)
        label_values = torch.where(is_own.unsqueeze(1), found, torch.zeros_like(found))
        values.scatter_(1, column, found - label_values)
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


def _ceil_div(count: int, divisor: int) -> int:
    return -(-count // divisor)


def _round_up(count: int, multiple: int) -> int:
    return _ceil_div(count, multiple) * multiple
