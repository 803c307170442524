"""The compact index: every row that is read once, in order, and nothing else."""

import pytest
import torch

from csrc_triton.compact import Compaction, compact_rows, compact_to


def read_rows(n_rows: int, share: float) -> torch.Tensor:
    return torch.rand(n_rows, generator=torch.Generator().manual_seed(n_rows)) < share


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("n_rows", [1, 2, 50, 300])
@pytest.mark.parametrize("spare", [0, 1, 40])
def test_index_and_inverse(n_rows: int, share: float, spare: int) -> None:
    read = read_rows(n_rows, share)
    wanted = read.nonzero()[:, 0]
    rows = compact_to(read, len(wanted) + spare)
    assert rows.index is not None
    values = torch.arange(n_rows) * 10
    if len(wanted) + spare < n_rows:
        assert rows.n_rows == len(wanted) + spare
        assert torch.equal(rows.index[: len(wanted)], wanted)
        assert (rows.index[len(wanted) :] == -1).all()
        assert rows.inverse is not None
        assert torch.equal(rows.inverse[read], torch.arange(len(wanted)))
        assert (rows.inverse[~read] == -1).all()
    else:
        assert rows.inverse is None
        assert torch.equal(rows.index, torch.where(read, torch.arange(n_rows), -1))
    if rows.n_rows:
        assert torch.equal(rows.put(rows.take(values, -7)).where(read, 0), values.where(read, 0))
        assert torch.equal(rows.take(values, -7) == -7, rows.index == -1)


def test_every_row_read_needs_no_index() -> None:
    assert compact_rows(torch.ones(5, dtype=torch.bool), None) == Compaction(5, None, None)
    assert compact_rows(torch.ones(0, dtype=torch.bool), None) == Compaction(0, None, None)


def test_a_count_is_a_bound() -> None:
    read = torch.tensor([True, False, True, False])
    assert compact_rows(read, 3).n_rows == 2
    with pytest.raises(ValueError, match=r"valid_count: expected at least .* 2, got 1; count the labels"):
        compact_rows(read, 1)
