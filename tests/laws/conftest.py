import pytest

from csrc_triton import gtw_cross_entropy as kernel
from csrc_triton import row_sums, torch_path
from csrc_triton.launch import WORD, Launch


def small_row_launch(n_cols: int, *, is_aligned: bool, **_: bool) -> Launch:
    """One block or two passes, by the columns; these hold the last ones in a block, not of a step's size."""
    width = n_cols if is_aligned else n_cols + WORD - 1
    return Launch(block=32, num_warps=1, step=0 if width <= 32 else 16)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 columns and of a few rows: small inputs then cross every block boundary."""
    monkeypatch.setattr(kernel, "row_launch", small_row_launch)
    monkeypatch.setattr(kernel, "_SCALE_PROGRAMS", 3)
    monkeypatch.setattr(kernel, "stream_launch", lambda n_cols: Launch(block=32, num_warps=1))
    monkeypatch.setattr(torch_path, "_BLOCK_ELEMENTS", 200)
    monkeypatch.setattr(row_sums, "_BLOCK", 4)
    monkeypatch.setattr(row_sums, "_SUM_BLOCK", 4)
