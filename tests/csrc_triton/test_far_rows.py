"""Offsets beyond 2^31 elements, of every kernel over rows of a matrix: of what it reads and what it writes.

The rows lie 2.2 GB apart in memory that is not touched between them, so that it takes none. An offset of 32
bits is most often the end of the process.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from csrc_triton.gather_rows import gather_rows
from csrc_triton.gtw_cross_entropy import scale_rows_
from tests.csrc_triton.row_kernels import piece_gradient, row_gradient

ROWS, COLUMNS = 3, 40
LABELS = torch.tensor([1, 2, COLUMNS - 1])
# The third row begins beyond 2^31 elements, at the start of a word or not.
STRIDES = pytest.mark.parametrize("stride", [1_100_000_000, 1_100_000_001])


def near() -> Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)).bfloat16()


def far(rows: Tensor, stride: int) -> Tensor:
    """The same rows."""
    storage = rows.new_empty((len(rows) - 1) * stride + rows.shape[1])
    return storage.as_strided(rows.shape, (stride, 1)).copy_(rows)


def gathered(source: Tensor, out: Tensor, labels: Tensor) -> Tensor:
    return gather_rows(source, torch.tensor([2, -1, 0]), out=out)


@STRIDES
@pytest.mark.parametrize("is_far", [(True, False), (False, True)], ids=["read", "written"])
@pytest.mark.parametrize("kernel", [row_gradient, piece_gradient, gathered])
def test_rows_that_are_far_apart(
    kernel: Callable[..., Tensor], is_far: tuple[bool, bool], stride: int
) -> None:
    values = (near(), torch.full_like(near(), torch.nan))
    expected = kernel(*(each.clone() for each in values), LABELS)
    assert expected.isfinite().all()
    source, out = (far(each, stride) if apart else each for each, apart in zip(values, is_far, strict=True))
    assert torch.equal(kernel(source, out, LABELS), expected)


@STRIDES
def test_rows_that_are_scaled(stride: int) -> None:
    rows, factors = far(near(), stride), torch.tensor([0.5, 1.0, 2.0])
    scale_rows_(rows, factors)
    assert torch.equal(rows, near() * factors[:, None].bfloat16())
