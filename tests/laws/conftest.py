import pytest

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import row_sums, torch_path
from csrc_triton.launch import WORD, Launch


def small_row_launch(n_cols: int, *, is_aligned: bool, **_: bool) -> Launch:
    """One block, a block and a tail or two passes, by the columns; with edges a block or two passes.

    Two passes hold the last columns in a block of another size than their steps.
    """
    if n_cols + (0 if is_aligned else WORD - 1) <= 32:
        return Launch(block=32, num_warps=1)
    if is_aligned and n_cols <= 96:
        return Launch(block=64, num_warps=1, tail=32)
    return Launch(block=32, num_warps=1, step=16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 columns and of a few rows: small inputs then cross every block boundary."""
    monkeypatch.setattr(kernel, "row_launch", small_row_launch)
    monkeypatch.setattr(kernel, "_SCALE_PROGRAMS", 3)
    monkeypatch.setattr(kernel, "stream_launch", lambda n_cols: Launch(block=32, num_warps=1))
    monkeypatch.setattr(torch_path, "_BLOCK_ELEMENTS", 200)
    monkeypatch.setattr(row_sums, "_BLOCK", 4)
    monkeypatch.setattr(row_sums, "_SUM_BLOCK", 4)
