"""Gathering by an index with gaps, and scattering in pieces by its inverse, in torch and in the kernel."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from csrc_triton import compact
from csrc_triton import gather_rows as kernel
from csrc_triton.compact import GatherRows, compact_to
from tests.csrc_triton.compiled import TARGETS, compiled, for_targets

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
everywhere = pytest.mark.parametrize(
    "gather", [compact.gather_rows, kernel.gather_rows], ids=["torch", "triton"]
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 16)


def random_rows(n_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n_rows, width, generator=torch.Generator().manual_seed(width)).to(dtype)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 16, 33])
def test_gathers_rows_and_zeros(gather: GatherRows, dtype: torch.dtype, width: int) -> None:
    source = random_rows(6, width, dtype)
    index = torch.tensor([3, -1, 0, 5, -1, 3])
    out = torch.full((6, width), float("nan"), dtype=dtype)
    assert gather(source, index, out=out) is out
    expected = torch.where((index >= 0)[:, None], source[index], 0)
    assert torch.equal(out, expected)


@everywhere
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_gathered_do_not_leak(gather: GatherRows, bad: float) -> None:
    source = random_rows(4, 20, torch.float32)
    source[[0, 3]] = bad
    out = gather(source, torch.tensor([-1, 1, 2, -1]), out=torch.empty(4, 20))
    assert torch.equal(out[1:3], source[1:3])
    assert (out[[0, 3]] == 0).all()


@everywhere
@pytest.mark.parametrize("piece", [1, 3, 7, 64])
def test_scatters_in_pieces(gather: GatherRows, piece: int) -> None:
    """The inverse index writes every row once, in any order; NaN is left where one was forgotten."""
    read = torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.5
    read[0] = read[-1] = False
    labels, capacity = torch.arange(40), int(read.sum()) + 3
    rows, _ = compact_to(read, labels, labels.float(), capacity=capacity, count=capacity, ignore_index=-1)
    assert rows.inverse is not None
    gathered = random_rows(rows.n_rows, 20, torch.float32)
    out = torch.full((40, 20), float("nan"))
    for start in reversed(range(0, rows.n_rows, piece)):
        gather(gathered[start : start + piece].clone(), rows.inverse, out=out, start=start)
    assert torch.equal(out[read], gathered[: int(read.sum())])
    assert (out[~read] == 0).all()


@everywhere
def test_strides_and_emptiness(gather: GatherRows) -> None:
    wide, out = random_rows(5, 40, torch.float32), torch.full((3, 50), float("nan"))
    gather(wide[:, 2:22], torch.tensor([4, -1, 0]), out=out[:, 5:25])
    assert torch.equal(out[0, 5:25], wide[4, 2:22])
    assert (out[1, 5:25] == 0).all()
    assert out[:, :5].isnan().all()
    assert out[:, 25:].isnan().all()
    nothing = torch.empty(0, dtype=torch.int64)
    assert gather(wide, nothing, out=torch.empty(0, 40)).shape == (0, 40)
    assert (gather(wide[:0], torch.tensor([-1]), out=torch.ones(1, 40)) == 0).all()


@everywhere
def test_offsets_beyond_2_to_the_31(gather: GatherRows) -> None:
    """Rows 2^30 elements apart; only the pages that are touched take memory."""
    apart = 2**30
    far = torch.empty(2 * apart + 2, dtype=torch.bfloat16).as_strided((3, 2), (apart, 1))
    far[2] = torch.tensor([5.0, 6.0])
    gathered = gather(far, torch.tensor([2, -1]), out=torch.ones(2, 2, dtype=torch.bfloat16))
    assert gathered.tolist() == [[5.0, 6.0], [0.0, 0.0]]
    gather(gathered, torch.tensor([-1, -1, 0]), out=far)
    assert far.tolist() == [[0.0, 0.0], [0.0, 0.0], [5.0, 6.0]]


@TARGETS
def test_kernel_compiles_without_spills(tmp_path: Path, targets: tuple[str, ...]) -> None:
    lines = compiled("gather_compile", tmp_path, *for_targets(targets))
    assert len(lines) == len(targets) * 4
    for line in lines:
        if "registers" in line:
            assert line["spill_bytes"] == 0, line
            assert line["wide_loads"], line
            assert line["wide_stores"], line
